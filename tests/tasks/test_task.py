def test_a_helper_of_the_user_s_file_is_part_of_what_a_network_is(tmp_path):
    import importlib.util
    import sys

    from surplus.tasks import Network

    def identity(helper: str, name: str = "own_helper_net") -> str:
        (tmp_path / f"{name}.py").write_text(
            "import torch\n"
            f"def helper(h):\n    return {helper}\n"
            "class Net(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.a = torch.nn.Linear(4, 2)\n"
            "    def forward(self, x):\n        return helper(self.a(x))\n"
            "def make():\n    return Net()\n"
        )
        import linecache

        linecache.clearcache()
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Network("own", factory=module.make).identity["factory"]

    assert identity("torch.relu(h)") == identity("torch.relu(h)")
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        assert identity("torch.relu(h)") != identity("h * 0.0000001")
    finally:
        sys.dont_write_bytecode = before
