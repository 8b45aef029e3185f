#!/usr/bin/env python3
"""Reads the history of tools/torture and decides whether the guarantees were kept.

    torture_check.py HISTORY        prints each violation; ends with 1 if there is any

A history is a file of JSON lines, in any order. All times are seconds of one monotonic clock of one
machine.

    {"event": "run", "store": "memory|redis", "lease": 2.0, "end": T, "locations": {NAME: LOCATION}}
            LOCATION: `hold`: how long an unknown outcome is held, 0 with `idempotency_unknown release`, null for the
            window; `ttl`: the window, or null if it is longer than the run; `timeout`: proxy_read_timeout, or null if
            it is longer than an execution; `kept_open`: connections to the application are kept open; `bulky`:
            responses are larger than the least proto-max-bulk-len; `small`: the store is too small for all keys. What
            is missing is null or false.
    {"event": "request", "id": I, "key": K, "location": NAME, "sent": T, "ended": T, "final": false,
     "outcome": "answer|lost|left", "status": 201, "idempotency": "NEW", "code": "", "execution": 1,
     "whole": true, "worker": PID}
            a response has the fields after `outcome`: `idempotency` is $idempotency_status, `code` that
            of a problem, `execution` the execution that it names (or null), `whole`: it is byte for byte
            the response of this execution. `lost`: the connection broke before the response was
            complete. `left`: the client disconnected by itself. `final`: sent after the last fault.
    {"event": "start", "key": K, "location": NAME, "number": N, "at": T, "worker": PID, "kind": KIND, "timeout": S}
    {"event": "end", "key": K, "number": N, "at": T}
            an execution at the application; `end` is recorded before its response. KIND is the kind of the
            response: `kept`; `free` (retriable, or released); `not_kept` (no-store); `large` (over
            idempotency_max_body); `broken` (no whole response: the connection is closed or reset before or during
            it, or it comes after the `timeout` of nginx, which is given only then).
    {"event": "logged", "id": I, "key": K, "number": N, "idempotency": "NEW", "at": T, "worker": PID}
            nginx has logged the end of this request (`id`), with the execution whose response it got, or null. A
            response that was logged as NEW counts as kept unless there was a fault within SLACK: if the client has
            disconnected, the outcome may not be recorded in Redis yet. A `not_kept` response that was logged as
            STORE_ERROR was delivered with NEW, as its head is sent before the outcome is recorded; what was logged counts.
    {"event": "fault", "fault": NAME, "at": T, "until": T, "worker": PID}
            `worker_killed` and `worker_stalled` (which `worker`), `reload` (of which `workers`), and of Redis `stalled`,
            `killed` (until it replies again), `connections_closed`, `scripts_flushed`, `reply_lost` (replies or
            commands of one connection were lost or late), `store_full`, `values_refused` (those of `bulky` locations),
            `clock` (its clock jumped by `seconds`), `failover` (until the sentinels name the new master, or the nodes of a
            cluster know it), `lied_map` (a node of a cluster has sent a wrong map or redirection), `half_open` (a
            connection became half-open at `at`; nginx has sent something over it at `first`, or null, and has closed it
            at `until`). `lied_sentinel` (one of three) and `moved` (slots moved) excuse nothing. `pause`: the machine itself was stopped, as the watcher has
            measured.
    {"event": "stale", "at": T, "idle": S, "uri": U}
            the application has reset a connection that was idle for too long, as a request arrived. Not checked.
    {"event": "cross_slot", "command": NAME, "keys": N}
            nginx has sent a command with keys of several slots, which a proxy that shards refuses.
    {"event": "believed", "got": TEXT}
            nginx has connected to a server that only one sentinel of three has named.
    {"event": "log", "level": "alert", "text": "..."}

What is decided

  1  Within the window one execution of a key. An execution A may be followed by B only where
       - A was `free` and had ended, or
       - the `ttl` of A's location has passed since A's end, or
       - the location has a `hold` shorter than the window (0 with `release`), and B starts no earlier than `hold`
         after the outcome of A became unknown:
           - A was `broken`: at its end, or after its `timeout`;
           - A's worker was killed before A's outcome was recorded in the store: a lease after A's start and 2/3 of a
             lease after the kill (a claim is renewed each third of its lease);
           - A was not renewed because of an outage of the store, a stall of its worker, or a jump of the clock of
             Redis: a lease after the last renewal before; and B starts no later than A can be renewed again.
         A jump forward of Redis' clock counts as time that has passed.
     An execution C after that may follow B, and no longer A.
     Nothing else excuses a second execution: no broken execution, killed worker, outage, full store, late or lost
     reply, or clock.
  2  A response is byte for byte that of the execution that it names, which has ended; all responses of a
     key that were delivered as kept (NEW or REPLAYED) name one execution, if the location has no `ttl`.
  3  A key is not blocked without a reason. 409 `request_in_progress` and `outcome_unknown` come only
       - while an execution runs, until its outcome was recorded, which an outage or the stall of its worker delays;
         if its worker was killed: `request_in_progress` for a lease after that, then `outcome_unknown` for `hold`;
         if it was `broken`: `outcome_unknown` for `hold`;
       - `outcome_unknown` for a short time, while an execution could not be renewed in time;
       - within RELEASED seconds of the end of a request under whose claim nothing was sent, or of the outage that
         met it. If its worker was killed before that: as after an execution whose worker was killed.
     After a jump back of Redis' clock: a lease (and `hold`) after the first request that found the claim; also where the
     time of the claim was over, if no request has seen that before the jump.
     With `release` there is no `outcome_unknown`.
  4  When a response of a key was delivered or logged as kept, nothing is executed any more, and each later request
     gets this response (after `not_kept`: 409 `response_not_kept`). If the store was full or refused the value, either
     of both, and always the same.
  5  No other responses than these: those of the application; 409; 503 `store_unavailable`, and
     STORE_ERROR with a response, if an outage, a full store or an expired claim explains it; 502 and 504 if the
     application broke off or was too slow. No line of the level `alert` or above except those about killed workers.
     No command with keys of several slots, and no connection to a server that only a liar has named. A half-open connection
     over which something was sent is closed within NOTICED, unless there was another outage.
  6  At the end each key gets a final response that is a replay, an execution, 409 `response_not_kept`, or, where an
     unknown outcome is held for the window, 409 `outcome_unknown` (for which rule 3 has to have a reason).

What is assumed

  - Claim, execution and settling are observed late by less than SLACK; a `pause` adds its own length.
  - An outage lasts as long as its fault, and RECOVERY more after a kill or a long stall: a worker
    waits for a second at most before it reconnects. A closed connection is an outage of BLINK. What has failed in an
    outage is tried again within RETRY.
  - A half-open connection is an outage from the moment when something was sent over it (or when it became half-open, if
    that was shortly before its end) until it is closed. After a failover, nginx may still ask a sentinel that is mute.
  - A full store is an outage, but not for renewals.
  - For renewals, outages less than a third of a lease apart count as one: they may have met the same renewal. Together
    with the third of a lease that may have passed since the last renewal, an outage of less than OUTAGE leases is too
    short for a claim to expire.
  - A worker gives up an outcome that it could not record for as long as an unknown outcome is held, or for a lease if
    that is longer; and if it was told to quit, for a lease. This counts like its death.
  - With a short proxy_read_timeout, a worker that was stopped may find that the time is over. Of a connection that is kept
    open it does not know how long the connection was idle while it stood still: the application may close or reset it
    under a request that comes within KEPT_IDLE.
"""

import bisect
import collections
import json
import re
import sys

SLACK = 1.0
EARLY = 0.5         # how much earlier a lease may seem to expire: it began before the execution's start
RECOVERY = 1.3
FAILOVER = 3.0      # the same after a failover: a sentinel may be mute, which takes a `timeout`
BLINK = 0.3
NOTICED = 4.0       # two times `timeout` (of the command, and of the check over a second connection), and SLACK twice
RETRY = 0.3         # an eighth of a lease, at most
RELEASED = 1.0
LONG_STALL = 1.0    # the store's `timeout`: its connections count as stalled
OUTAGE = 0.25       # of a lease
KEPT_IDLE = 2.0     # over idempotency_keepalive_idle
EXPLAINED = 1.0     # `timeout`: a call may last for this time after its fault

BLOCKED = ('IN_PROGRESS', 'UNKNOWN')
FOREVER = float('inf')

Violation = collections.namedtuple('Violation', 'rule key text')
Span = collections.namedtuple('Span', 'start end')
Jump = collections.namedtuple('Jump', 'start end seconds')

# How long a key may be blocked by one execution or one request: from when, and until when with which code. `claim`: how
# long a claim is there whose outcome nobody records any more.
Hold = collections.namedtuple('Hold', 'since progress unknown claim')


class Spans:
    """Spans of time, to find those that meet another span."""

    def __init__(self, spans=()):
        self.spans = sorted(spans)
        self.starts = [span.start for span in self.spans]
        self.longest = max((span.end - span.start for span in self.spans), default=0)

    def between(self, start, end):
        found = []
        for index in range(bisect.bisect_left(self.starts, start - self.longest), len(self.spans)):
            span = self.spans[index]
            if span.start > end:
                break
            if span.end >= start:
                found.append(span)
        return found

    def joined(self, distance):
        """With those that are less than `distance` apart as one."""
        joined = []
        for span in self.spans:
            if joined and span.start - joined[-1].end < distance:
                joined[-1] = Span(joined[-1].start, max(span.end, joined[-1].end))
            else:
                joined.append(Span(span.start, span.end))
        return Spans(joined)


class Location:
    def __init__(self, values):
        self.ttl = values.get('ttl')
        self.hold = FOREVER if values.get('hold') is None else values['hold']
        self.timeout = values.get('timeout')
        self.kept_open = values.get('kept_open', False)
        self.bulky = values.get('bulky', False)
        self.small = values.get('small', False)


class Execution:
    __slots__ = ('key', 'number', 'start', 'end', 'worker', 'kind', 'location', 'timeout')

    def __init__(self, event):
        self.key = event['key']
        self.number = event['number']
        self.start = event['at']
        self.end = FOREVER
        self.worker = event['worker']
        self.kind = sys.intern(event['kind'])
        self.location = sys.intern(event.get('location', ''))
        self.timeout = event.get('timeout')

    @property
    def over(self):
        """When nginx had the whole response, or gave up waiting for it."""
        return self.end if self.timeout is None else min(self.end, self.start + self.timeout)

    def __str__(self):
        end = 'no end' if self.end == FOREVER else '%.3f' % self.end
        return 'execution %d (%s, %.3f to %s, worker %s)' % (
            self.number, self.kind, self.start, end, self.worker)


class Request:
    __slots__ = ('id', 'key', 'location', 'sent', 'ended', 'final', 'outcome', 'status', 'idempotency', 'code', 'execution',
                              'whole', 'worker', 'logged', 'executed')

    def __init__(self, event):
        for name in self.__slots__:
            value = event.get(name)
            setattr(self, name, sys.intern(value) if isinstance(value, str) else value)
        self.logged = None
        self.executed = self.execution is not None

    @property
    def is_answered(self):
        return self.outcome == 'answer'

    @property
    def is_blocked(self):
        return self.is_answered and self.status == 409 and self.idempotency in BLOCKED

    @property
    def over(self):
        """When nginx was done with it."""
        return self.ended if self.logged is None else max(self.ended, self.logged)


class History:
    def __init__(self, events):
        self.executions = collections.defaultdict(list)
        self.requests = collections.defaultdict(list)
        self.logged = collections.defaultdict(list)
        self.kills = collections.defaultdict(list)
        self.quits = {}
        self.log = []
        self.cross_slot = []
        self.believed = []
        self.half_open = []
        self.run = None
        by_number = {}
        ends = []
        faults = []
        ended_at = {}

        for event in events:
            name = event['event']
            if name == 'run':
                self.run = event
            elif name == 'request':
                self.requests[event['key']].append(Request(event))
            elif name == 'start':
                execution = Execution(event)
                by_number[execution.key, execution.number] = execution
                self.executions[execution.key].append(execution)
            elif name == 'end':
                ends.append((event['key'], event['number'], event['at']))
            elif name == 'logged':
                ended_at[event['id']] = event
                if event['number'] is not None and event['idempotency'] == 'NEW':
                    self.logged[event['key']].append((event['at'], event['number'], event['worker']))
            elif name == 'log':
                self.log.append(event)
            elif name == 'cross_slot':
                self.cross_slot.append(event)
            elif name == 'believed':
                self.believed.append(event)
            elif name == 'fault':
                faults.append(event)

        if self.run is None:
            raise ValueError('no history: the event "run" is missing')
        self.lease = self.run['lease']
        self.plain = Location({})
        self.locations = {name: Location(values) for name, values in self.run.get('locations', {}).items()}

        for key, number, at in ends:
            by_number[key, number].end = at
        for executions in self.executions.values():
            executions.sort(key=lambda execution: execution.start)
        for key, requests in self.requests.items():
            requests.sort(key=lambda request: request.sent)
            for request in requests:
                if request.id in ended_at:
                    end = ended_at[request.id]
                    request.logged = end['at']
                    request.worker = request.worker or end['worker']
                    request.executed = request.executed or end['number'] is not None
                    # the head of a response that is not to be kept is sent before its outcome is recorded
                    execution = by_number.get((key, end['number']))
                    if execution is not None and execution.kind == 'not_kept' and end['idempotency'] == 'STORE_ERROR':
                        request.idempotency = end['idempotency']
        self.read_faults(sorted(faults, key=lambda fault: fault['at']))

    @classmethod
    def read(cls, path):
        with open(path, encoding='utf-8') as lines:
            return cls(json.loads(line) for line in lines)

    def read_faults(self, faults):
        def spans_of(*names):
            return Spans(Span(fault['at'], fault['until']) for fault in faults if fault['fault'] in names)

        stalls = collections.defaultdict(list)
        for fault in faults:
            if fault['fault'] == 'worker_killed':
                self.kills[fault['worker']].append(fault['at'])
            elif fault['fault'] == 'worker_stalled':
                stalls[fault['worker']].append(Span(fault['at'], fault['until']))
            elif fault['fault'] == 'reload':
                for worker in fault.get('workers', ()):
                    self.quits.setdefault(worker, fault['at'])

        self.all_kills = sorted(at for kills in self.kills.values() for at in kills)
        self.stalls = {worker: Spans(spans) for worker, spans in stalls.items()}
        self.all_stalls = spans_of('worker_stalled')
        self.pauses = spans_of('pause')
        self.full = spans_of('store_full')
        self.refused = spans_of('values_refused')
        jumps = [Jump(fault['at'], fault['until'], fault['seconds']) for fault in faults if fault['fault'] == 'clock']
        self.forward = Spans(jump for jump in jumps if jump.seconds > 0)
        self.back = Spans(jump for jump in jumps if jump.seconds < 0)

        outages = [Span(self.outage_start(fault), fault['at'] + self.outage_length(fault)) for fault in faults
                   if self.outage_length(fault) is not None]
        self.half_open = [fault for fault in faults if fault['fault'] == 'half_open']
        self.other_outages = Spans(
            Span(fault['at'], fault['at'] + self.outage_length(fault)) for fault in faults
            if fault['fault'] != 'half_open' and self.outage_length(fault) is not None)
        self.outages = Spans(outages + self.full.spans).joined(0)
        # a store that is full renews claims all the same
        self.long_outages = Spans(outages).joined(self.lease / 3)

    @staticmethod
    def outage_start(fault):
        if fault['fault'] != 'half_open' or fault['first'] is None or fault['until'] - fault['at'] < NOTICED:
            return fault['at']
        return fault['first']

    @staticmethod
    def outage_length(fault):
        length = fault['until'] - fault['at']
        if fault['fault'] == 'pause':
            return length
        if fault['fault'] == 'killed':
            return length + RECOVERY
        if fault['fault'] == 'stalled':
            return length + (RECOVERY if length >= LONG_STALL else 0)
        if fault['fault'] == 'failover':
            return length + FAILOVER
        if fault['fault'] == 'lied_map':
            return length + RECOVERY
        if fault['fault'] in ('half_open', 'reply_lost', 'connections_closed'):
            return length + (RECOVERY if length >= LONG_STALL else BLINK)
        return None

    def location(self, key):
        items = self.executions.get(key) or self.requests[key]
        return self.locations.get(items[0].location) or self.plain

    def stalls_of(self, worker, start, end):
        """Without a worker: of any."""
        stalls = self.all_stalls if worker is None else self.stalls.get(worker)
        return stalls.between(start, end) if stalls is not None else []

    def slack(self, start, end):
        return SLACK + sum(pause.end - pause.start for pause in self.pauses.between(start, end))

    def began(self, execution):
        """When its request may have been sent, at the earliest."""
        return execution.start - self.slack(execution.start - SLACK, execution.start)

    def elapsed(self, start, end):
        """The most that may have passed between two times by the clock of the store."""
        return end - start + sum(jump.seconds for jump in self.forward.between(start - SLACK, end + SLACK))

    def execution(self, key, number):
        for execution in self.executions.get(key, ()):
            if execution.number == number:
                return execution
        return None

    def reached(self, at, worker):
        """When the store can have been reached by a worker that began to try it at `at`."""
        while True:
            spans = self.outages.between(at, at + RETRY) + self.stalls_of(worker, at - SLACK, at + SLACK)
            latest = max([at] + [span.end for span in spans])
            if latest == at:
                return at
            at = latest

    def recorded(self, execution):
        """By when the outcome of an execution was recorded, if its worker lived."""
        return self.reached(execution.over, execution.worker) + SLACK

    def died(self, worker, since, over, until):
        """When a worker was killed between `since` and `until`, or gave up what it could not record from `over` on."""
        for at in self.kills.get(worker, ()):
            if since <= at <= until:
                return at
        if worker in self.quits:
            at = max(over, self.quits[worker]) + self.lease - EARLY
            if at <= until < FOREVER:
                return at
        return None

    # When the worker of an execution was killed or gave up, if its outcome may not have been recorded by then.
    def killed(self, execution):
        location = self.location(execution.key)
        recorded = self.recorded(execution)
        died = self.died(execution.worker, self.began(execution), execution.over, recorded)
        given_up = execution.over + max(location.hold, self.lease) - EARLY
        if given_up <= recorded < FOREVER:
            return given_up if died is None else min(died, given_up)
        return died


class Checker:
    def __init__(self, history):
        self.history = history
        self.lease = history.lease
        self.violations = []

    def check(self):
        for key in sorted(set(self.history.requests) | set(self.history.executions)):
            self.location = self.history.location(key)
            self.executions = self.history.executions.get(key, [])
            self.requests = self.history.requests.get(key, [])
            self.answers = [request for request in self.requests if request.is_answered]
            self.check_executions(key)
            self.check_results(key)
            self.check_blocked(key)
            self.check_nothing_lost(key)
            for request in self.answers:
                self.check_explained(key, request)
            self.check_converges(key)
        self.check_log()
        return self.violations

    def report(self, rule, key, text, *values):
        self.violations.append(Violation(rule, key, text % values))

    # 1

    def check_executions(self, key):
        overtaken = set()
        for later, b in enumerate(self.executions):
            for a in self.executions[:later]:
                if a.number in overtaken:
                    continue
                if self.may_follow(a, b):
                    overtaken.add(a.number)
                else:
                    self.report(1, key, '%s is followed by %s', a, b)

    def may_follow(self, a, b):
        if a.kind == 'free' and a.end <= b.start:
            return True
        if self.is_past_window(a, b.start):
            return True
        if self.location.hold == FOREVER:
            return False
        return self.may_have_become_unknown(a, b.start) or self.may_have_lapsed(a, b.start)

    def is_past_window(self, execution, at):
        return self.location.ttl is not None and execution.end < at \
            and self.history.elapsed(execution.end, at) >= self.location.ttl - EARLY

    def is_free_again(self, renewed, at):
        """Whether a claim whose last renewal was at `renewed` may have ended by then."""
        return self.history.elapsed(renewed, at) >= self.lease + self.location.hold - EARLY

    def may_have_become_unknown(self, execution, at):
        if self.may_be_broken(execution) and execution.over - EARLY <= at \
                and self.history.elapsed(execution.over, at) >= self.location.hold - EARLY:
            return True
        killed = self.history.killed(execution)
        return killed is not None and killed <= at and self.is_free_again(self.last_renewal(execution, killed), at)

    def last_renewal(self, execution, at):
        """When a claim was renewed the last time before `at`, at the earliest."""
        spans = self.history.stalls_of(execution.worker, at, at) + self.history.long_outages.between(at, at)
        return max(self.granted(execution), min([at] + [span.start for span in spans]) - self.lease / 3)

    def granted(self, execution):
        """When its claim was granted, at the earliest: a grant may be read late, but within its lease."""
        return min([execution.start] + [
            request.sent for request in self.requests
            if execution.start - self.lease <= request.sent and request.ended >= execution.start
            and request.execution in (None, execution.number)])

    def may_be_broken(self, execution):
        return execution.kind == 'broken' \
            or self.is_disturbed(execution.worker, execution.start, execution.over + SLACK)

    def is_disturbed(self, worker, start, end):
        """Whether nginx may have lost a connection, or the patience, without a fault of the application."""
        if self.location.kept_open:
            start -= KEPT_IDLE
        return (self.location.kept_open or self.location.timeout is not None) and bool(
            self.history.pauses.between(start, end) or self.history.stalls_of(worker, start, end))

    # What may have prevented renewals of an execution for too long.
    def breaks(self, execution, until=FOREVER):
        start, end = self.history.began(execution), min(self.history.recorded(execution), until)
        spans = self.history.long_outages.between(start, end) \
            + self.history.stalls_of(execution.worker, start, end)
        return [span for span in spans if span.end - span.start >= self.lease * OUTAGE] \
            + self.history.forward.between(start, end)

    def may_have_lapsed(self, execution, at):
        return any(at <= self.claimable_again(span.end) + self.lease / 3 + SLACK
                   and self.is_free_again(self.last_renewal(execution, span.start), at)
                   for span in self.breaks(execution, at))

    def claimable_again(self, at):
        """When a claim that the store has lost can be made again: not while the store is full."""
        return max([at] + [full.end for full in self.history.full.between(at, at + self.lease / 3 + SLACK)])

    # 2

    def check_results(self, key):
        kept = {}
        for request in self.answers:
            if request.execution is None:
                continue
            execution = self.history.execution(key, request.execution)
            if execution is None:
                self.report(2, key, 'request %s names execution %s, which never was',
                            request.id, request.execution)
                continue
            if not request.whole:
                self.report(2, key, 'request %s got another response than that of %s',
                            request.id, execution)
            if execution.end > request.ended:
                self.report(2, key, 'request %s got the response of %s at %.3f',
                            request.id, execution, request.ended)
            if request.idempotency == 'REPLAYED' and execution.kind != 'kept' and not self.may_be_in_time(execution):
                self.report(2, key, 'request %s is a replay of %s', request.id, execution)
            if execution.kind == 'kept' and request.idempotency in ('NEW', 'REPLAYED'):
                kept.setdefault(execution.number, request.id)
        if len(kept) > 1 and self.location.ttl is None:
            self.report(2, key, 'different responses were delivered as kept: %s', ', '.join(
                'execution %s to request %s' % pair for pair in sorted(kept.items())))

    # A worker that stood still finds the response and the end of its patience at the same time.
    def may_be_in_time(self, execution):
        return execution.timeout is not None and self.is_disturbed(
            execution.worker, execution.start + execution.timeout - SLACK, execution.end + SLACK)

    # 3

    def check_blocked(self, key):
        blocked = [request for request in self.requests if request.is_blocked]
        if not blocked:
            return
        holds = [self.hold_of_execution(execution) for execution in self.executions] \
            + [self.hold_of_request(request) for request in self.requests if self.may_hold(request)] \
            + [Hold(request.sent, request.ended, -FOREVER, -FOREVER) for request in self.answers
               if request.execution is not None or request.status in (502, 504)]

        for request in blocked:
            code = 0 if request.idempotency == 'IN_PROGRESS' else 1
            if code == 1 and self.location.hold == 0:
                self.report(3, key, 'request %s got UNKNOWN, and unknown outcomes are released', request.id)
                continue
            until = max([-FOREVER] + [self.after_jumps(hold, code, request)
                                      for hold in holds if hold.since <= request.ended])
            if request.sent > until + (0 if until == -FOREVER else self.history.slack(until, request.sent)):
                self.report(3, key, 'request %s, sent at %.3f, got %s; the key could be blocked until %.3f',
                            request.id, request.sent, request.idempotency, until)

    def hold_of_execution(self, execution):
        recorded = self.history.recorded(execution)
        killed = self.history.killed(execution)
        progress = recorded
        claim = unknown = -FOREVER

        if killed is not None:
            progress = self.outlast(killed) + self.lease
            claim = unknown = progress + self.location.hold
        if self.may_be_broken(execution):
            # the claim itself may have been there until then
            late = self.lease if recorded > execution.over + SLACK else 0
            unknown = max(unknown, recorded + late + self.location.hold)
        for span in self.breaks(execution):
            unknown = max(unknown, span.end + self.lease / 3)
        return Hold(self.history.began(execution), progress, unknown, claim)

    # Of a request under whose claim nothing was sent, or whose execution has a hold of its own.
    def hold_of_request(self, request):
        free = self.history.reached(request.over, request.worker) + RELEASED
        killed = self.killed_with(request, free)
        progress = unknown = free
        claim = -FOREVER
        if killed is not None:
            progress = max(progress, self.outlast(killed) + self.lease)
            claim = unknown = progress + self.location.hold
        if self.location.kept_open and self.is_disturbed(request.worker, request.sent, request.over):
            unknown = request.over + self.location.hold
        return Hold(request.sent, progress, unknown, claim)

    def may_hold(self, request):
        if not request.is_answered:
            return not request.executed
        return request.code == 'store_unavailable' or self.location.kept_open and request.status == 502

    # nginx logs each request, unless its worker is killed.
    def killed_with(self, request, until):
        if request.worker is not None:
            return self.history.died(request.worker, request.sent - SLACK, request.over, until + SLACK)
        last = max([request.ended + EXPLAINED] + [
            stall.end for stall in self.history.all_stalls.between(request.sent, request.ended + SLACK)]) + SLACK
        kills = self.history.all_kills
        index = bisect.bisect_right(kills, last) - 1
        return kills[index] if index >= 0 and kills[index] >= request.sent - SLACK else None

    # A stalled Redis carries out what it was sent once it runs again.
    def outlast(self, at):
        spans = self.history.outages.between(at - EXPLAINED, at + self.lease) \
            + self.history.all_stalls.between(at - EXPLAINED, at + EXPLAINED)
        return max([at] + [span.end for span in spans])

    # The first request that finds a value after Redis' clock has gone back gives it no more than its whole lifetime. A
    # value whose time was over is there again if nothing has looked for it, and Redis has not removed it yet.
    def after_jumps(self, hold, code, blocked):
        until, there = hold[1 + code], max(hold.claim, hold.unknown if code == 1 else -FOREVER)
        if until == FOREVER or there == -FOREVER:
            return until
        for jump in self.history.back.between(hold.since, blocked.ended):
            if any(there + SLACK < request.sent and request.ended < jump.start and request.code != 'store_unavailable'
                   for request in self.answers):
                break
            found = min((request.ended for request in self.answers
                         if request.sent > jump.end and request.idempotency in BLOCKED), default=FOREVER)
            until = max(until, found + self.lease + (self.location.hold if code == 1 else 0))
            there = max(there, found + self.lease + self.location.hold)
        return until

    # 4

    def check_nothing_lost(self, key):
        for since, execution in self.kept(key):
            for other in self.executions:
                if other.start > since and not self.is_past_window(execution, other.start) \
                        and not self.was_claimed_before(other, since):
                    self.report(4, key, '%s was kept by %.3f, and there is %s', execution, since, other)

            seen = set()
            for request in self.answers:
                if request.sent <= since or request.code == 'store_unavailable' \
                        or self.is_past_window(execution, request.ended):
                    continue
                if self.is_result(request, execution):
                    seen.add(request.idempotency)
                else:
                    self.report(4, key, '%s was kept by %.3f, and request %s, sent at %.3f, got %s %s (execution %s)',
                                execution, since, request.id, request.sent, request.status,
                                request.idempotency, request.execution)
            if len(seen) > 1:
                self.report(4, key, '%s was replayed, and is recorded as not kept', execution)

    def was_claimed_before(self, other, since):
        """Whether an execution had its claim before `since`, and lost it by a jump of the store's clock.

        With `release` or a short hold such a jump frees the key, and the worker reads its grant only afterwards.
        """
        return self.location.hold < FOREVER and any(
            request.execution == other.number and request.sent <= since
            and sum(jump.seconds for jump in self.history.forward.between(request.sent, other.start))
            >= self.lease + self.location.hold - EARLY
            for request in self.answers)

    def is_result(self, request, execution):
        if request.code == 'response_not_kept':
            return execution.kind == 'not_kept' or self.may_be_refused(execution)
        return request.idempotency == 'REPLAYED' and request.execution == execution.number

    # Whether the store may have refused a response, so that it is recorded as not kept.
    def may_be_refused(self, execution):
        if execution.kind != 'kept':
            return False
        around = execution.over - SLACK, self.history.recorded(execution)
        return self.location.small or bool(self.history.full.between(*around)) \
            or self.location.bulky and bool(self.history.refused.between(*around))

    # The executions whose response was kept, and when that was known; only the first if there is no `ttl`.
    def kept(self, key):
        seen = [(request.ended, request.execution) for request in self.answers
                if request.execution is not None and request.idempotency in ('NEW', 'REPLAYED')]
        seen += [(at, number) for at, number, worker in self.history.logged.get(key, ()) if self.is_certain(at, worker)]
        found = {}
        for at, number in sorted(seen):
            execution = self.history.execution(key, number)
            if execution is not None and execution.kind in ('kept', 'not_kept'):
                found.setdefault(number, (at, execution))
        kept = list(found.values())
        return kept if self.location.ttl is not None else kept[:1]

    # The request of a client that has disconnected is logged before its outcome is recorded in Redis, and a worker
    # that was stopped logs with an old clock.
    def is_certain(self, at, worker):
        around = at - SLACK, at + SLACK
        return not self.history.outages.between(*around) \
            and not self.history.stalls_of(worker, *around) \
            and not any(around[0] <= kill <= around[1] for kill in self.history.kills.get(worker, ()))

    # 5

    def check_explained(self, key, request):
        if request.idempotency == 'STORE_ERROR':
            explained = self.store_was_out(request) or self.has_lapsed(request)
        elif request.execution is not None:
            explained = request.idempotency in ('NEW', 'REPLAYED')
        elif request.status == 409:
            explained = request.idempotency in BLOCKED or self.was_not_keepable(request)
        elif request.status in (502, 504):
            explained = self.has_broken(request)
        else:
            explained = False

        if not explained:
            self.report(5, key, 'nothing explains the response to request %s (%.3f to %.3f): %s %s %s (execution %s)',
                        request.id, request.sent, request.ended, request.status,
                        request.idempotency, request.code, request.execution)

    def store_was_out(self, request):
        around = request.sent - EXPLAINED, request.ended
        if self.history.outages.between(*around) or self.location.bulky and self.history.refused.between(*around):
            return True
        if request.execution is None and self.location.small and request.code == 'store_unavailable':
            return True
        # a grant that was read after its lease is not used, and what was sent before a long stall has timed out
        return any(stall.end - stall.start >= self.lease * 3 / 4
                   for stall in self.history.stalls_of(request.worker, request.sent - SLACK, request.ended))

    # The claim had expired by the time of the response, and there may have been another claim.
    def has_lapsed(self, request):
        if self.location.hold == FOREVER:
            return False
        for own in self.executions:
            is_own = own.number == request.execution or self.is_broken_within(own, request)
            if is_own and (self.is_overtaken(own, request) or self.may_have_lapsed(own, request.ended)):
                return True
        return False

    def is_overtaken(self, own, request):
        return any(own.start < other.start <= request.ended + SLACK for other in self.executions)

    @staticmethod
    def is_broken_within(execution, request):
        return execution.kind == 'broken' and request.sent <= execution.over <= request.ended + EARLY

    def was_not_keepable(self, request):
        return request.code == 'response_not_kept' and any(
            execution.start <= request.ended
            and (execution.kind in ('not_kept', 'large') or self.may_be_refused(execution))
            for execution in self.executions)

    def has_broken(self, request):
        return any(self.is_broken_within(execution, request) for execution in self.executions) \
            or self.is_disturbed(request.worker, request.sent, request.ended)

    def check_log(self):
        killed = {str(worker) for worker in self.history.kills}
        for line in self.history.log:
            if not self.is_of_a_kill(line['text'], killed):
                self.report(5, '', 'the error log has: %s', line['text'])
        for event in self.history.cross_slot:
            self.report(5, '', 'a command with %d keys of several slots was sent: %s', event['keys'], event['command'])
        for event in self.history.believed:
            self.report(5, '', 'a sentinel that lies was believed: %s', event.get('got'))
        for event in self.history.half_open:
            if event['first'] is not None and not self.was_noticed(event):
                self.report(5, '', 'a connection that was half-open since %.3f, used since %.3f, was closed at %.3f',
                            event['at'], event['first'], event['until'])

    def was_noticed(self, event):
        return event['until'] - event['first'] <= NOTICED \
            or self.history.other_outages.between(event['first'] - RECOVERY, event['until']) \
            or self.history.all_stalls.between(event['first'] - SLACK, event['until'])

    @staticmethod
    def is_of_a_kill(text, killed):
        for pattern in (r'worker process (\d+) exited on signal (?:9|11)\b',
                        r'shared memory zone ".*" was locked by (\d+)',
                        r'kill\((\d+), \d+\) failed'):
            match = re.search(pattern, text)
            if match:
                return match.group(1) in killed
        # the master informs all workers about a new one, and one of them has just been killed
        return bool(killed) and re.search(r'sendmsg\(\) failed \((?:32|104|111):', text) is not None

    # 6

    def check_converges(self, key):
        finals = [request for request in self.requests if request.final]
        if not finals:
            self.report(6, key, 'was not asked for in the end')
            return
        last = max(finals, key=lambda request: request.ended)
        is_final = last.code == 'response_not_kept' or last.execution is not None \
            or last.is_blocked and last.idempotency == 'UNKNOWN' and self.location.hold == FOREVER
        if not last.is_answered or not is_final:
            self.report(6, key, 'has no result in the end: request %s got %s %s %s', last.id, last.outcome,
                        last.status, last.idempotency)


def check(events):
    """The violations in a history, given as a list of events."""
    return Checker(History(events)).check()


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
        sys.exit(__doc__)
    violations = Checker(History.read(sys.argv[1])).check()
    for violation in violations:
        print('rule %d, key %s: %s' % violation)
    return 1 if violations else 0


if __name__ == '__main__':
    sys.exit(main())
