"""Who is drawn next: requests take turns, and none holds so many places that the next one finds none."""

from collections import Counter, deque
from collections.abc import Collection, Sequence

from diffpo.sampling.running import Row


class Turns:
    """The rows of a batch's places, and those that wait for one, by request.

    A request takes a further place only while it holds fewer than are free, as buffers are shared by dynamic thresholds
    (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): alone it holds
    half of them, and of k that come together each holds one part in k + 1, so that who comes next finds a place. None
    is taken back before its row is done: without this rule one request would keep all others waiting for its rows.
    """

    def __init__(self, num_places: int) -> None:
        self._num_places = num_places
        self._waiting: dict[int, deque[Row]] = {}  # by request, in the order of their turns
        self._drawn: dict[int, int] = {}  # the request of each key
        self._next_request = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Let the rows of one request wait."""
        if rows:
            self._waiting[self._next_request] = deque(rows)
            self._next_request += 1

    def take(self) -> list[Row]:
        """Give free places to rows that wait, one to each request in turn, and return these rows."""
        found: list[Row] = []
        held = Counter(self._drawn.values())
        free = self._num_places - len(self._drawn)
        while (request := next((one for one in self._waiting if held[one] < free), None)) is not None:
            rows = self._waiting.pop(request)
            found.append(rows.popleft())
            self._drawn[found[-1].key] = request
            held[request] += 1
            free -= 1
            if rows:
                self._waiting[request] = rows  # behind all others
        return found

    def leave(self, keys: Collection[int]) -> None:
        """Free the places of rows that are drawn. Keys of others are passed over."""
        for key in keys:
            self._drawn.pop(key, None)

    def forget(self, keys: Collection[int]) -> None:
        """Let rows wait no longer. Keys of rows that do not wait are passed over."""
        kept = {request: deque(row for row in rows if row.key not in keys) for request, rows in self._waiting.items()}
        self._waiting = {request: rows for request, rows in kept.items() if rows}

    def clear_places(self) -> None:
        """Free all places."""
        self._drawn.clear()

    def waiting(self) -> list[int]:
        """Return the keys of rows that wait."""
        return [row.key for rows in self._waiting.values() for row in rows]
