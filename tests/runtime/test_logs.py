from __future__ import annotations

import logging

from frugalkd.runtime.logs import logged


def test_what_is_logged_is_a_line_each(capsys):
    log = logging.getLogger("frugalkd.somewhere")
    before = logging.getLogger("frugalkd").level
    log.info("not shown")
    with logged():
        log.info("one\nline \x1b[31m")
        log.debug("not shown")
        log.warning("another")
    log.info("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:8] for line in lines] == ["one line", "another"]
    assert "\x1b" not in lines[0]
    assert logging.getLogger("frugalkd").level == before
    assert not logging.getLogger("frugalkd").handlers
