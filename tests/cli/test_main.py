from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

import inserve
from inserve.cli.main import main


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(flag: str) -> None:
    result = CliRunner().invoke(main, [flag])
    assert result.exit_code == 0
    for command in ("serve", "inspect", "demo"):
        assert f"\n  {command} " in result.stdout


def test_the_version_is_the_package_s() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"inserve {inserve.__version__}\n")


def test_an_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["serv"])
    assert result.exit_code == 2
    assert "No such command 'serv'" in result.stderr


def test_help_loads_neither_tensorflow_nor_grpc_nor_numpy() -> None:
    program = (
        "import sys\n"
        "from inserve.cli.main import main\n"
        "main(['serve', '--help'], standalone_mode=False)\n"
        "heavy = {'tensorflow', 'grpc', 'pygrpc_native', 'cffi', 'numpy', 'google.protobuf', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
