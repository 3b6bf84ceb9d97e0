"""What a statement does to its transaction or to the server session.

Told from its text, since that is all there is for statements that are not SQLAlchemy's
own. What cannot be told for sure is taken for harmless to go on with, and for a loss if
it is about to be committed.
"""

from __future__ import annotations

import enum
import re
import typing as t


class Effect(enum.Flag):
    """What a statement does.

    :cvar READS: nothing that a rollback would undo.
    :cvar MAY_WRITE: it calls a function that may, or takes locks of rows.
    :cvar WRITES: something that a rollback undoes.
    :cvar LOCKS: it takes a lock of the session, or lets it listen.
    """

    READS = 0
    MAY_WRITE = enum.auto()
    WRITES = enum.auto()
    LOCKS = enum.auto()


# As much of a statement is looked at.
_LOOKED_AT: t.Final = 4000

_BEFORE: t.Final = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/|#[^\n]*\n)+", re.S)
_LITERAL: t.Final = re.compile(r"'(?:[^']|'')*'")
_CHANGES: t.Final = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE(?!\s*\())\b")
_LOCKS_ROWS: t.Final = re.compile(
    r"\bFOR (?:NO KEY |KEY )?(?:UPDATE|SHARE)\b|\bLOCK IN SHARE MODE\b|\bINTO\b"
)
# PostgreSQL's pg_advisory_lock() and pg_try_advisory_lock(), not those of the
# transaction (pg_advisory_xact_lock); MySQL's GET_LOCK().
_SESSION_LOCK: t.Final = re.compile(r"\b(?:PG_\w*ADVISORY_LOCK\w*|GET_LOCK)\s*\(")
_CALL: t.Final = re.compile(r"(\w+)\(")

# Functions, types and words that stand before a parenthesis and change nothing.
_PURE_WORDS: t.Final = """
    ABS ALL AND ANY ARRAY AS AVG BETWEEN BY CAST CEIL CHAR CHAR_LENGTH COALESCE CONCAT
    CONNECTION_ID COUNT CURDATE CURRENT_DATABASE CURRENT_DATE CURRENT_SCHEMA
    CURRENT_SETTING CURRENT_TIMESTAMP CURRENT_USER DATABASE DATE DATE_FORMAT DATE_TRUNC
    DECIMAL DENSE_RANK DISTINCT EXISTS EXTRACT FLOOR FROM FROM_UNIXTIME GREATEST
    GROUP_CONCAT HAVING IF IFNULL IN INTERVAL ISNULL JOIN JSON_EXTRACT LAG
    LAST_INSERT_ID LEAD LEAST LEFT LENGTH LIKE LOWER LTRIM MAX MD5 MIN MOD NOT NOW
    NULLIF NUMERIC ON OR OVER PARTITION PG_BACKEND_PID PG_SLEEP PG_TYPEOF POSITION POWER
    RANDOM RANK REGEXP_REPLACE REPLACE RIGHT ROUND ROW_NUMBER RTRIM SELECT SLEEP
    STRFTIME STRING_AGG SUBSTR SUBSTRING SUM THEN TO_CHAR TO_DATE TO_TIMESTAMP TRIM
    TXID_CURRENT UNIX_TIMESTAMP UNNEST UPPER USING UTC_TIMESTAMP UUID VALUES VARCHAR
    VERSION WHEN WHERE
"""
_PURE: t.Final = frozenset(_PURE_WORDS.split())
# Statements that change nothing that a rollback undoes, or end the transaction.
_HARMLESS_WORDS: t.Final = """
    ABORT BEGIN CHECKPOINT CLOSE COMMIT DECLARE DESC DESCRIBE DISCARD END FETCH HELP
    KILL MOVE PRAGMA RELEASE RESET ROLLBACK SAVEPOINT SET SHOW START TABLE UNLISTEN
    UNLOCK USE VALUES
"""
_HARMLESS: t.Final = frozenset(_HARMLESS_WORDS.split())
_QUERIES: t.Final = frozenset(("SELECT", "WITH", "EXPLAIN", "ANALYZE"))

# What is known of statements, which apps run again and again.
_known: dict[str, Effect] = {}
_MOST_KNOWN: t.Final = 1000
# A longer one is not kept: its values may stand in it.
_LONGEST_KNOWN: t.Final = 2000


def effect_of(statement: str) -> Effect:
    """Return what a statement does."""
    effect = _known.get(statement)
    if effect is None:
        effect = _tell(statement)
        if len(statement) <= _LONGEST_KNOWN:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[statement] = effect
    return effect


def _tell(statement: str) -> Effect:
    text = statement[:_LOOKED_AT]
    found = _BEFORE.match(text)
    text = text[found.end() if found else 0 :].upper()
    word = re.split(r"[^A-Z]", text, maxsplit=1)[0]
    if word in ("LISTEN", "LOCK"):
        return Effect.LOCKS | Effect.MAY_WRITE
    if word in _HARMLESS or not word:
        return Effect.READS
    if word not in _QUERIES:
        return Effect.WRITES
    text = _LITERAL.sub("''", text)
    is_run = word != "EXPLAIN" or "ANALYZE" in text
    if word != "SELECT" and is_run and _CHANGES.search(text):
        return Effect.WRITES
    if word in ("EXPLAIN", "ANALYZE"):
        return Effect.READS
    effect = Effect.READS
    if _SESSION_LOCK.search(text):
        effect |= Effect.LOCKS
    calls = (each[1] not in _PURE for each in _CALL.finditer(text))
    if _LOCKS_ROWS.search(text) or any(calls):
        effect |= Effect.MAY_WRITE
    return effect
