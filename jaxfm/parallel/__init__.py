"""Device meshes, logical-axis rules and shardings."""
