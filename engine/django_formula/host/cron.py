"""Times in cron's five fields."""

import re
from collections.abc import Iterator

#: The least and the greatest number of each field: minute, hour, day of the month, month, day of the week.
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def problems(at: str) -> Iterator[str]:
    """Yield what cron does not take of a time: it leaves out the line, and tells only its log.

    A time that has not five fields is in another notation, and has none.

    >>> [*problems("0 22-4 * 13 *")][1]
    '0 22-4 * 13 * has 13: expected numbers from 1 to 12, and no step of 0'
    """
    fields = at.split()
    if len(fields) != len(_BOUNDS):
        return
    if any(int(start) > int(end) for start, end in re.findall(r"(\d+)-(\d+)", at)):
        yield f"{at} has a range that ends before it begins: write two ranges"
    for field, (least, most) in zip(fields, _BOUNDS, strict=True):
        numbers, steps = re.findall(r"(?<![/\d])\d+", field), re.findall(r"/(\d+)", field)
        if not all(least <= int(number) <= most for number in numbers) or 0 in map(int, steps):
            yield f"{at} has {field}: expected numbers from {least} to {most}, and no step of 0"
