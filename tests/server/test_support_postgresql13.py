"""A PostgreSQL older than 14 can be had."""

from __future__ import annotations

import sqlalchemy as sa

from tests.support.servers import DatabaseServer


def test_is_too_old_for_idle_session_timeout(postgresql13: DatabaseServer) -> None:
    name = postgresql13.create_database()
    engine = sa.create_engine(postgresql13.url(database=name))
    with engine.connect() as connection:
        version = connection.scalar(sa.text("SHOW server_version_num"))
        limit = connection.scalar(
            sa.text("SELECT current_setting('idle_session_timeout', true)")
        )
    engine.dispose()
    postgresql13.drop_database(name)
    assert 130000 <= int(version) < 140000
    assert limit is None
