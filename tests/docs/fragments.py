"""What the short examples of the pages take for granted: an app, its database, a guard.

A page imports it in a block that is not shown.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_poolguard import PoolGuard

app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db = SQLAlchemy(app)
guard = PoolGuard(app)
