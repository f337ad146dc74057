"""Whether a worker reaches a service: judged by what others reach meanwhile, never by one failure.

Invariant: a worker rests for a service only after a call got through elsewhere that did not from here, or after nothing
but pages came here while others were answered.
"""

from __future__ import annotations

import math

from batcher.records import Completion, Failure, Fault

# Pages in a row that came from a proxy or a firewall, and not from the service; and how many it takes if others get
# pages among their answers: then the service itself, or what stands before it for all, sends some.
_PAGES, _UNUSUAL_PAGES = 3, 10
# So many seconds back others are looked at for pages.
_USUAL_S = 60.0
# Seconds of a rest: the first one, and the longest.
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_WITHOUT_ANSWER = {Fault.CONNECTION, Fault.UNREACHABLE, Fault.TIMEOUT, Fault.WORKER, Fault.OTHER}


def shows_nothing(came: Completion | Failure) -> bool:
    """Return whether nothing follows for the way to the service: no answer came, or a broken one.

    Broken answers come from the services themselves as well, and to all workers.
    """
    return not was_answered(came) or (isinstance(came, Failure) and came.fault is Fault.PROTOCOL)


def was_answered(came: Completion | Failure) -> bool:
    """Return whether anything came back from the service, or from what stands before it."""
    if isinstance(came, Completion) or came.fault not in _WITHOUT_ANSWER:
        return True
    return came.status is not None or came.partial is not None


def got_nowhere(came: Failure) -> bool:
    """Return whether a call ended before its request had left: it had no connection."""
    return not was_answered(came) and not came.may_be_billed


class Reach:
    """What one worker's calls to one service have shown.

    Attributes:
        suspicions: calls that did not get through here, and of which it is not known yet whether they do elsewhere.
        rests_until: the loop's time before which it makes no call to the service.
        left_at: when a request last left for the service, in the crew's seconds.
        probe: the id of the call that is out to show whether the worker reaches the service again.
        paged_at: the loop's time at which a page last came in place of an answer.
    """

    __slots__ = ("_paged_since", "_pages", "_rest_s", "left_at", "paged_at", "probe", "rests_until", "suspicions")

    def __init__(self) -> None:
        self.suspicions = 0
        self.rests_until = 0.0
        self.left_at = -1
        self.probe: int | None = None
        self.paged_at = -math.inf
        self._paged_since = math.inf
        self._rest_s = 0.0
        self._pages = 0

    @property
    def has_rested(self) -> bool:
        """Whether it has rested, and not reached the service since."""
        return self._rest_s > 0

    def is_open(self, now: float) -> bool:
        """Return whether it may make a call to the service."""
        return not self.suspicions and (not self.has_rested or (now >= self.rests_until and self.probe is None))

    def rest(self, now: float) -> float:
        """Make no call for a while, longer each time; return how long, in seconds. A rest under way stays as it is."""
        if now >= self.rests_until:
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S) or _FIRST_REST_S
            self.rests_until = now + self._rest_s
        return self._rest_s

    def reached(self) -> bool:
        """Record that a call got through; return whether it had rested."""
        had_rested = self.has_rested
        self._rest_s = self.rests_until = 0.0
        self.probe = None
        self._pages = 0
        self._paged_since = math.inf
        return had_rested

    def paged(self, now: float) -> None:
        """Record that a page came in place of an answer."""
        self._pages += 1
        self.paged_at = now
        self._paged_since = min(self._paged_since, now)

    def gets_pages_too(self, answered_at: float, now: float) -> bool:
        """Return whether pages come here among the answers, of which the latest came then."""
        return min(answered_at, self.paged_at) >= now - _USUAL_S

    def gets_only_pages(self, others_answered_at: float, *, is_usual: bool) -> bool:
        """Return whether nothing but pages comes here, although others were answered meanwhile.

        Args:
            others_answered_at: the loop's time at which another worker was last answered.
            is_usual: others get pages among their answers.
        """
        enough = _UNUSUAL_PAGES if is_usual else _PAGES
        return self._pages >= enough and others_answered_at >= self._paged_since
