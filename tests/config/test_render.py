"""`config default` and `config docs` say what the declarations say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from zpush import config
from zpush.config import render
from zpush.config.settings import SETTINGS


def test_the_default_file_loads_back_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "zpush.toml"
    path.write_text(render.default_toml())
    settings = config.load(str(path), {}, [])
    assert settings == config.load(None, {}, [])
    lines = path.read_text().splitlines()
    for key, setting in SETTINGS.items():
        if setting.is_rest:
            continue
        file, _, line = settings.origin(key).rpartition(":")
        assert file == str(path), f"{key} is not in the default file"
        assert lines[int(line) - 1].startswith(f"{setting.name} = ")


def test_the_reference_is_current() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text()
    assert committed == render.docs_markdown() + "\n", "run: make docs"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:s3cret@h/0", "redis://u:***@h/0"),
        ("redis://:s3cret@h", "redis://:***@h"),
        ("redis://u:12/s3cret@h", "redis://u:***@h"),
        ("redis://u:12?s3cret@h?db=1", "redis://u:***@h?db=1"),
        ("redis://u:12#s@3cret@h", "redis://u:***@h"),
        ("unix://u:s/3cret@/run/s", "unix://u:***@/run/s"),
        ("redis+sentinel://a,b/main?sentinel_password=s3cret&db=1", "redis+sentinel://a,b/main?sentinel_password=***&db=1"),
        ("kafka://h:9092,i:9092", "kafka://h:9092,i:9092"),
    ],
)
def test_a_password_is_masked_whatever_stands_in_it(url: str, masked: str) -> None:
    assert render.mask_url(url) == masked
