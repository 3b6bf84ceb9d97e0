"""Every code block of docs/testing.md runs as it stands there."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Database
from tests.support.app_server import REPOSITORY
from tests.support.plugin_suite import install_plugin

pytestmark = pytest.mark.process

PAGE = (REPOSITORY / "docs" / "testing.md").read_text()
BLOCKS = {
    code.splitlines()[0].removeprefix("# ").removesuffix(".py"): code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)
}
(INI,) = re.findall(r"```ini\n(.*?)```", PAGE, re.S)


def test_each_block_is_a_file() -> None:
    assert PAGE.count("```python") == len(BLOCKS) == 4


@pytest.mark.parametrize("product", ["mariadb", "postgresql"])
def test_they_pass_on_a_server(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    product: str,
) -> None:
    install_plugin(pytester, monkeypatch)
    url = Database(request.getfixturevalue(f"{product}_url"), None).url
    monkeypatch.setenv("TEST_DATABASE_URL", url.render_as_string(hide_password=False))
    pytester.makeini(INI)
    pytester.makepyfile(**BLOCKS)
    result = pytester.runpytest_subprocess("-p", "no:flask", "--strict-markers")
    result.assert_outcomes(passed=6)
    assert result.ret == 0
