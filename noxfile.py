"""The unit tests on each supported Python that this machine has: ``nox -s tests-3.13``."""

from __future__ import annotations

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """``nox -s tests-3.13 -- tests/models`` runs some of them."""
    session.install(".[parquet,report,torchvision]", "--requirement", "requirements-dev.txt")
    session.run("pytest", *session.posargs, env={"OMP_NUM_THREADS": "1"})
