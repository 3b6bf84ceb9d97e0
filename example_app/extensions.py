"""The app's extensions, made once and bound to an app in ``create_app``."""

from typing import TYPE_CHECKING

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from flask_poolguard import PoolGuard


class Base(DeclarativeBase):
    """The declarative base from which Flask-SQLAlchemy builds ``db.Model``."""


db = SQLAlchemy(model_class=Base)
guard = PoolGuard()

if TYPE_CHECKING:
    # db.Model is made at run time; a type checker can follow what it is made from.
    Model = Base
else:
    Model = db.Model
