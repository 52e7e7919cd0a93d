from jaxfm.families.tensors import Tensor, linear, norm


def test_names_of_layers() -> None:
    assert Tensor("words").names(3) == ["words"] and not Tensor("words").layered
    assert Tensor("layer.{}.up").names(3) == ["layer.0.up", "layer.1.up", "layer.2.up"]
    assert Tensor("layer.{}.norm", last="final").names(3) == ["layer.1.norm", "layer.2.norm", "final"]


def test_a_prefix_is_added_and_taken_off() -> None:
    for tensor in (Tensor("layer.{}.norm", last="final"), Tensor("words")):
        under = tensor.under("bert.")
        assert under.names(2) == [f"bert.{name}" for name in tensor.names(2)]
        assert under.without("bert.") == tensor == tensor.without("bert.") == tensor.under("")


def test_entries_of_linear_maps_and_norms() -> None:
    assert linear("up", "mlp.Wi", part=1, parts=2) == {
        "up/kernel": Tensor("mlp.Wi.weight", inputs=1, part=1, parts=2),
        "up/bias": Tensor("mlp.Wi.bias", part=1, parts=2),
    }
    assert norm("norm", "ln.{}", last="final") == {
        "norm/scale": Tensor("ln.{}.weight", last="final.weight"),
        "norm/bias": Tensor("ln.{}.bias", last="final.bias"),
    }
