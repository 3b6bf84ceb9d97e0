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

# What says nothing, from left to right, for what begins first hides the others. A
# comment that one server runs, and another does not, stays: "#" is an operator of
# PostgreSQL's, "--1" a number of MySQL's, and that runs what is in "/*! */".
_COMMENT: t.Final = r"--(?=\s|$)[^\n]*|/\*(?!!).*?\*/"
_TEXT: t.Final = r"(?P<text>'(?:[^']|'')*')|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_NAME: t.Final = r'(?P<name>"(?:[^"]|"")*"|`[^`]*`)'
_SILENT: t.Final = re.compile(f"{_COMMENT}|{_TEXT}|{_NAME}", re.S)
# What stands for a name in quotes, which may be any function's.
_QUOTED: t.Final = "\x01"
# Left over, these may have hidden anything.
_UNCLEAR: t.Final = re.compile(r"""['"`\\#]|--|/\*""")
_BEFORE: t.Final = re.compile(r"[\s(]+")
_CHANGES: t.Final = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE(?!\s*\())\b")
_LOCKS_ROWS: t.Final = re.compile(
    r"\bFOR (?:NO KEY |KEY )?(?:UPDATE|SHARE)\b|\bLOCK IN SHARE MODE\b|\bINTO\b"
    r"|\bNEXT VALUE FOR\b"
)
# PostgreSQL's pg_advisory_lock() and pg_try_advisory_lock(), not those of the
# transaction (pg_advisory_xact_lock); MySQL's GET_LOCK().
_SESSION_LOCK: t.Final = re.compile(r"\b(?:PG_\w*ADVISORY_LOCK\w*|GET_LOCK)\s*\(")
_CALL: t.Final = re.compile(r"([\w.\x01]+)\s*\(")

# Functions, types and words that stand before a parenthesis and change nothing.
_PURE_WORDS: t.Final = """
    ABS AGAINST ALL AND ANY ARRAY AS AVG BETWEEN BY CASE CAST CEIL CHAR CHAR_LENGTH
    COALESCE CONCAT CONNECTION_ID CONVERT COUNT CURDATE CURRENT_DATABASE CURRENT_DATE
    CURRENT_SCHEMA CURRENT_SETTING CURRENT_TIMESTAMP CURRENT_USER DATABASE DATE
    DATE_FORMAT DATE_TRUNC DECIMAL DENSE_RANK DISTINCT DIV ELSE EXCEPT EXISTS EXTRACT
    FILTER FLOOR FROM FROM_UNIXTIME GREATEST GROUP GROUP_CONCAT HAVING IF IFNULL ILIKE
    IN INTERSECT INTERVAL IS ISNULL JOIN JSON_EXTRACT LAG LAST_INSERT_ID LATERAL LEAD
    LEAST LEFT LENGTH LIKE LIMIT LOWER LTRIM MATCH MATERIALIZED MAX MD5 MIN MOD NOT NOW
    NULLIF NUMERIC OFFSET ON OR OVER PARTITION PG_BACKEND_PID PG_SLEEP PG_TYPEOF
    POSITION POWER RANDOM RANK RECURSIVE REGEXP_REPLACE REPLACE RIGHT ROUND ROW
    ROW_NUMBER RTRIM SELECT SLEEP SOME STRAIGHT_JOIN STRFTIME STRING_AGG SUBSTR
    SUBSTRING SUM THEN TO_CHAR TO_DATE TO_TIMESTAMP TRIM TXID_CURRENT UNION
    UNIX_TIMESTAMP UNNEST UPPER USING UTC_TIMESTAMP UUID VALUES VARCHAR VERSION WHEN
    WHERE XOR
"""
_PURE: t.Final = frozenset(_PURE_WORDS.split())
# Statements that change nothing that a rollback undoes, or end the transaction.
_HARMLESS_WORDS: t.Final = """
    ABORT BEGIN CHECKPOINT CLOSE COMMIT DECLARE DESC DESCRIBE DISCARD END FETCH HELP
    KILL MOVE PRAGMA RELEASE RESET ROLLBACK SAVEPOINT SHOW START UNLISTEN UNLOCK USE
"""
_HARMLESS: t.Final = frozenset(_HARMLESS_WORDS.split())
_QUERIES: t.Final = frozenset(
    ("SELECT", "WITH", "EXPLAIN", "ANALYZE", "SET", "TABLE", "VALUES")
)

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


def is_plain_read(statement: str) -> bool:
    """Tell whether a statement is one query that reads, without any doubt."""
    text = statement.strip().rstrip(";")
    return (
        len(statement) <= _LOOKED_AT
        and text[:7].upper().split() == ["SELECT"]
        and ";" not in text
        and _UNCLEAR.search(_SILENT.sub(_replace, text)) is None
        and effect_of(statement) is Effect.READS
    )


def _replace(found: re.Match[str]) -> str:
    if found["name"]:
        return _QUOTED
    # A backslash ends such a text later on MySQL than on PostgreSQL.
    return "\\" if found["text"] and "\\" in found["text"] else " "


def _tell(statement: str) -> Effect:
    text = _SILENT.sub(_replace, statement[:_LOOKED_AT]).upper()
    effect = Effect.READS
    for part in text.split(";"):
        effect |= _tell_one(part)
    return effect


def _tell_one(text: str) -> Effect:
    found = _BEFORE.match(text)
    text = text[found.end() if found else 0 :]
    word = re.split(r"[^A-Z]", text, maxsplit=1)[0]
    if word in ("LISTEN", "LOCK"):
        return Effect.LOCKS | Effect.MAY_WRITE
    if word == "BEGIN" and _CHANGES.search(text):  # MariaDB's BEGIN NOT ATOMIC
        return Effect.WRITES
    if word in _HARMLESS or not word:
        return Effect.READS if word or not text else Effect.MAY_WRITE
    if word not in _QUERIES:
        return Effect.WRITES
    is_run = word != "EXPLAIN" or "ANALYZE" in text
    if word != "SELECT" and is_run and _CHANGES.search(text):
        return Effect.WRITES
    effect = Effect.READS
    if not is_run or word == "ANALYZE":
        return effect
    if _SESSION_LOCK.search(text):
        effect |= Effect.LOCKS
    calls = (each[1] not in _PURE for each in _CALL.finditer(text))
    if _LOCKS_ROWS.search(text) or _UNCLEAR.search(text) or any(calls):
        effect |= Effect.MAY_WRITE
    return effect
