"""Payload values as JSON can say them."""

import base64
import math
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any


def finite(value: float) -> float | None:
    """Return the number, or None where JSON has no word for it.

    Parameters
    ----------
    value : float

    Returns
    -------
    float or None

    Examples
    --------
    >>> from attnbridge.jsonable import finite
    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if math.isfinite(value) else None


def jsonable(value: Any) -> Any:
    """Return a payload value as JSON can say it.

    Parameters
    ----------
    value : object
        Dates and times become ISO 8601, durations seconds, binary base64, decimals numbers, names of a dict text; NaN
        and infinity None.

    Returns
    -------
    object

    Examples
    --------
    >>> from datetime import date
    >>> from attnbridge.jsonable import jsonable
    >>> jsonable({"day": date(2020, 1, 31), "codes": [b"ab", float("nan")]})
    {'day': '2020-01-31', 'codes': ['YWI=', None]}
    """
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(name): jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
