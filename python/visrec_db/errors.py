"""What can go wrong on the road from an image to a vector: one class per cause.

VisrecError
├── ImageError              the picture's own fault: recorded for its row, harms no other
│   ├── ImageMissing        missing          58P01
│   ├── ImageOutsideRoots   outside_roots    42501
│   ├── ImageUnreadable     unreadable       58030
│   ├── ImageTooLarge       too_large        54000
│   ├── ImageBomb           bomb             54000
│   ├── ImageTimeout        timeout          54000
│   ├── ImageTruncated      truncated        22P03
│   └── NotAnImage          not_an_image     22P03
├── EncoderError            the model's fault: no picture can be embedded
│   ├── EncoderUnavailable  encoder_unavailable  55000
│   └── NoTextTower         no_text_tower        0A000
├── InvalidRequest          invalid_request      22023
└── Canceled                canceled             57014
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class VisrecError(Exception):
    """Base of all errors of this package.

    ``code`` is stable and stands in ``visrec.failure``; ``sqlstate`` is what PostgreSQL reports.
    """

    code = "error"
    sqlstate = "XX000"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, Any]:
        """Returns what SQL needs to raise it, and ``from_dict`` to make it again."""
        return {
            "code": self.code,
            "sqlstate": self.sqlstate,
            "message": self.message,
            "hint": self.hint,
        }


class ImageError(VisrecError):
    """This image gives no vector; others may."""


class ImageMissing(ImageError):
    """No such file under any image root."""

    code = "missing"
    sqlstate = "58P01"  # undefined_file


class ImageOutsideRoots(ImageError):
    """The path leads out of the directories an administrator allowed."""

    code = "outside_roots"
    sqlstate = "42501"  # insufficient_privilege


class ImageUnreadable(ImageError):
    """The path is there but is no file the server may read."""

    code = "unreadable"
    sqlstate = "58030"  # io_error


class ImageTooLarge(ImageError):
    """More bytes than ``max_image_bytes``."""

    code = "too_large"
    sqlstate = "54000"  # program_limit_exceeded


class ImageBomb(ImageError):
    """More pixels than ``max_image_pixels``, found before any is decoded."""

    code = "bomb"
    sqlstate = "54000"  # program_limit_exceeded


class ImageTimeout(ImageError):
    """Decoding takes longer than ``max_image_seconds``."""

    code = "timeout"
    sqlstate = "54000"  # program_limit_exceeded


class ImageTruncated(ImageError):
    """A picture whose data ends early."""

    code = "truncated"
    sqlstate = "22P03"  # invalid_binary_representation


class NotAnImage(ImageError):
    """Not a picture in a format that is read here, or one whose data is damaged."""

    code = "not_an_image"
    sqlstate = "22P03"  # invalid_binary_representation


class EncoderError(VisrecError):
    """The model cannot do what was asked."""


class EncoderUnavailable(EncoderError):
    """The model cannot be loaded."""

    code = "encoder_unavailable"
    sqlstate = "55000"  # object_not_in_prerequisite_state


class NoTextTower(EncoderError):
    """The model embeds pictures only."""

    code = "no_text_tower"
    sqlstate = "0A000"  # feature_not_supported


class InvalidRequest(VisrecError):
    """What was asked cannot be, whatever the images and models are."""

    code = "invalid_request"
    sqlstate = "22023"  # invalid_parameter_value


class Canceled(VisrecError):
    """The statement was canceled, or ran into statement_timeout."""

    code = "canceled"
    sqlstate = "57014"  # query_canceled


_CAUSES: list[type[VisrecError]] = [
    *ImageError.__subclasses__(),
    *EncoderError.__subclasses__(),
    InvalidRequest,
    Canceled,
]
ERRORS = {cause.code: cause for cause in _CAUSES}
"""Each cause's class by its code."""


def from_dict(found: dict[str, Any]) -> VisrecError:
    """Makes the error of which ``as_dict`` was sent."""
    return ERRORS.get(found["code"], EncoderUnavailable)(found["message"], found["hint"])
