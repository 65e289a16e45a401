"""visrec: from an image to a vector, for the PostgreSQL extension of the same name.

Where to look: an image becomes a picture in ``images``, a picture a vector in ``encoder``,
and a row is accounted for in ``backend``, the only module that talks to PostgreSQL.
"""

__version__ = "0.2.0"  # `make lint` checks it against extension/visrec.control
