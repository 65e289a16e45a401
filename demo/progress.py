"""What takes long, shown: one line that says what it is, and on a terminal a bar beneath it."""

from tqdm import tqdm


def bar(what: str, total: int) -> "tqdm[None]":
    """Says what begins, and returns its bar, which shows on a terminal only and goes when done."""
    print(what, flush=True)
    return tqdm(total=total, leave=False, disable=None, dynamic_ncols=True)


def say(text: str) -> None:
    """Prints a line above the bar, if one shows."""
    tqdm.write(text)
