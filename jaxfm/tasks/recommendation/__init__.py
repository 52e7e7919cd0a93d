"""Next items of users: recommendation from histories (Sun et al. 2019, Kang and McAuley 2018)."""
