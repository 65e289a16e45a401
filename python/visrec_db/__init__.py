"""visrec: from an image to a vector, for the PostgreSQL extension of the same name.

``backend`` runs inside PostgreSQL and asks ``service``, the encoder process, for vectors. There an
image becomes a picture in ``pictures`` and a vector in ``encoders``, with weights from ``models``.
"""

__version__ = "0.1.0"  # `make lint` checks it against extension/visrec.control
