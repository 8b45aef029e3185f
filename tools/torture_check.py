#!/usr/bin/env python3
"""Reads the history of tools/torture and decides whether the guarantees were kept.

    torture_check.py HISTORY        prints each violation; ends with 1 if there is any

A history is a file of JSON lines, in any order. All times are seconds of one monotonic clock of one
machine.

    {"event": "run", "store": "memory|redis", "lease": 2.0, "end": T}
    {"event": "request", "id": I, "key": K, "sent": T, "ended": T, "final": false,
     "outcome": "answer|lost|left", "status": 201, "idempotency": "NEW", "code": "", "execution": 1,
     "whole": true}
            a response has the fields after `outcome`: `idempotency` is $idempotency_status, `code` that
            of a problem, `execution` the execution that it names (or null), `whole`: it is byte for byte
            the response of this execution. `lost`: the connection broke before the response was
            complete. `left`: the client disconnected by itself. `final`: sent after the last fault.
    {"event": "start", "key": K, "number": N, "at": T, "worker": PID, "kind": KIND}
    {"event": "end", "key": K, "number": N, "at": T}
            an execution at the application; `end` is recorded before its response. KIND is the kind of the
            response: `kept`; `free` (retriable, or released); `not_kept` (no-store); `large` (over
            idempotency_max_body); `broken` (closes before or during its response).
    {"event": "logged", "key": K, "number": N, "at": T, "worker": PID}
            nginx has logged the response of this execution as NEW. It counts as kept unless there was
            a fault within SLACK: if the client has disconnected, the outcome may not be recorded in Redis yet.
    {"event": "fault", "fault": NAME, "at": T, "until": T, "worker": PID}
            `worker_killed` and `worker_stalled` (which `worker`), `reload`, and of Redis `stalled`, `killed` (until it
            replies again), `connections_closed`, `scripts_flushed`. `pause`: the machine itself
            was stopped, as the watcher has measured.
    {"event": "log", "level": "alert", "text": "..."}

What is decided

  1  At most one execution of a key at a time, and none after one that ended: an execution A may be
     followed by B only where
       - A was `free` and had ended, or
       - A was `broken`, and B starts a lease after A's end, or
       - A's worker was killed before A's outcome was recorded in the store, and B starts no earlier
         than a lease after A's start and 2/3 of a lease after the kill (a claim is renewed each
         third of its lease), or
       - an outage of the store of at least OUTAGE leases met A, or the lease that follows A's end
         (it was not renewed, or its outcome could not be recorded), and B starts no earlier than a
         lease after A's start, or
       - a stall of A's worker had the same effect.
  2  A response is byte for byte that of the execution that it names, which has ended; all responses of a
     key that were delivered as kept (NEW or REPLAYED) name one execution.
  3  409 `request_in_progress` or `outcome_unknown` comes within a lease of the last sign of life of
     a request that may hold the key: an execution until its end, or until its worker was killed; a
     request of this key that ended without a response from the application. An outage during this time
     extends it until the outage has ended: a stalled Redis executes pending commands when it runs again. So does the
     stall of a worker.
  4  When a response of a key was delivered or logged as kept, nothing is executed any more, and
     each later request gets this response (after `not_kept`: 409 `response_not_kept`).
  5  No other responses than these: those of the application; 409; 503 `store_unavailable`, and
     STORE_ERROR with a response, if an outage or an expired claim explains it; 502 and 504 if the application
     broke off. No line of the level `alert` or above except those about killed workers.
  6  At the end each key gets a final response that is a replay, an execution, or 409
     `response_not_kept`.

What is assumed

  - Claim, execution and settling are observed late by less than SLACK; a `pause` adds its own length.
  - An outage lasts as long as its fault, and RECOVERY more after a kill or a long stall: a worker
    waits for a second at most before it reconnects. A closed connection is an outage of BLINK.
    Outages less than a third of a lease apart count as one: they may have met the same renewal.
  - The retry queue doubles its delay: an outcome may be recorded as late as twice the outage.
    Together with the third of a lease that may have passed since the last renewal, an outage of
    less than a quarter of a lease is too short for a claim to expire.
"""

import collections
import json
import re
import sys

SLACK = 1.0
EARLY = 0.5         # how much earlier a lease may seem to expire: it began before the execution's start
RECOVERY = 1.3
BLINK = 0.3
LONG_STALL = 1.0    # the store's `timeout`: its connections count as stalled
OUTAGE = 0.25       # of a lease
EXPLAINED = 1.0     # `timeout`: a call may last for this time after its fault

BLOCKED = ('IN_PROGRESS', 'UNKNOWN')
FOREVER = float('inf')

Violation = collections.namedtuple('Violation', 'rule key text')
Outage = collections.namedtuple('Outage', 'start end')
Stall = collections.namedtuple('Stall', 'start end worker')


class Execution:
    def __init__(self, event):
        self.key = event['key']
        self.number = event['number']
        self.start = event['at']
        self.end = FOREVER
        self.worker = event['worker']
        self.kind = event['kind']

    def __str__(self):
        end = 'no end' if self.end == FOREVER else '%.3f' % self.end
        return 'execution %d (%s, %.3f to %s, worker %s)' % (
            self.number, self.kind, self.start, end, self.worker)


class History:
    def __init__(self, events):
        self.executions = collections.defaultdict(list)
        self.requests = collections.defaultdict(list)
        self.logged = collections.defaultdict(list)
        self.kills = collections.defaultdict(list)
        self.stalls = []
        self.log = []
        self.run = None
        by_number = {}
        ends = []
        faults = []

        for event in events:
            name = event['event']
            if name == 'run':
                self.run = event
            elif name == 'request':
                self.requests[event['key']].append(event)
            elif name == 'start':
                execution = Execution(event)
                by_number[execution.key, execution.number] = execution
                self.executions[execution.key].append(execution)
            elif name == 'end':
                ends.append(event)
            elif name == 'logged':
                self.logged[event['key']].append(event)
            elif name == 'log':
                self.log.append(event)
            elif name == 'fault':
                faults.append(event)
                if event['fault'] == 'worker_killed':
                    self.kills[event['worker']].append(event['at'])
                elif event['fault'] == 'worker_stalled':
                    self.stalls.append(Stall(event['at'], event['until'], event['worker']))

        if self.run is None:
            raise ValueError('no history: the event "run" is missing')

        for event in ends:
            by_number[event['key'], event['number']].end = event['at']
        for executions in self.executions.values():
            executions.sort(key=lambda execution: execution.start)
        for requests in self.requests.values():
            requests.sort(key=lambda request: request['sent'])

        self.lease = self.run['lease']
        self.pauses = [(fault['at'], fault['until']) for fault in faults if fault['fault'] == 'pause']
        self.outages = self.find_outages(faults)

    @classmethod
    def read(cls, path):
        with open(path, encoding='utf-8') as lines:
            return cls(json.loads(line) for line in lines)

    def find_outages(self, faults):
        outages = []
        for fault in sorted(faults, key=lambda fault: fault['at']):
            length = self.outage_length(fault)
            if length is None:
                continue
            end = fault['at'] + length
            if outages and fault['at'] - outages[-1].end < self.lease / 3:
                outages[-1] = Outage(outages[-1].start, max(end, outages[-1].end))
            else:
                outages.append(Outage(fault['at'], end))
        return outages

    @staticmethod
    def outage_length(fault):
        length = fault.get('until', fault['at']) - fault['at']
        if fault['fault'] == 'pause':
            return length
        if fault['fault'] == 'killed':
            return length + RECOVERY
        if fault['fault'] == 'stalled':
            return length + (RECOVERY if length >= LONG_STALL else 0)
        if fault['fault'] == 'connections_closed':
            return BLINK
        return None

    def outages_between(self, start, end):
        return [outage for outage in self.outages if outage.start <= end and outage.end >= start]

    def stalls_between(self, start, end, worker=None):
        return [stall for stall in self.stalls if stall.start <= end and stall.end >= start
                and worker in (None, stall.worker)]

    def slack(self, start, end):
        return SLACK + sum(until - at for at, until in self.pauses if at <= end and until >= start)

    def execution(self, key, number):
        for execution in self.executions[key]:
            if execution.number == number:
                return execution
        return None

    # When the worker of an execution was killed, if its outcome may not have been recorded by then.
    def killed(self, execution):
        settled = execution.end + SLACK
        for outage in self.outages_between(execution.end, execution.end + self.lease):
            settled = max(settled, min(outage.end, execution.end + self.lease) + SLACK)
        for stall in self.stalls_between(execution.end - SLACK, execution.end + SLACK, execution.worker):
            settled = max(settled, stall.end + SLACK)
        for at in self.kills[execution.worker]:
            if execution.start - SLACK <= at <= settled:
                return at
        return None


class Checker:
    def __init__(self, history):
        self.history = history
        self.lease = history.lease
        self.violations = []

    def check(self):
        keys = sorted(set(self.history.requests) | set(self.history.executions))
        for key in keys:
            self.check_executions(key)
            self.check_results(key)
            self.check_blocked(key)
            self.check_nothing_lost(key)
            for request in self.history.requests[key]:
                if request['outcome'] == 'answer':
                    self.check_explained(key, request)
            self.check_converges(key)
        self.check_log()
        return self.violations

    def report(self, rule, key, text, *values):
        self.violations.append(Violation(rule, key, text % values))

    # 1

    def check_executions(self, key):
        executions = self.history.executions[key]
        for later, b in enumerate(executions):
            for a in executions[:later]:
                if not self.may_follow(a, b):
                    self.report(1, key, '%s is followed by %s', a, b)

    def may_follow(self, a, b):
        if a.kind == 'free' and a.end <= b.start:
            return True
        if a.kind == 'broken' and a.end + self.lease - EARLY <= b.start:
            return True
        if a.start + self.lease - EARLY > b.start:
            return False
        killed = self.history.killed(a)
        if killed is not None and killed + self.lease * 2 / 3 - EARLY <= b.start:
            return True
        return self.may_have_lapsed(a, b.start)

    def may_have_lapsed(self, execution, at):
        start = execution.start - SLACK
        breaks = self.history.outages_between(start, min(execution.end + self.lease, at)) \
            + self.history.stalls_between(start, min(execution.end + SLACK, at), execution.worker)
        return any(stretch.end - stretch.start >= self.lease * OUTAGE for stretch in breaks)

    # 2

    def check_results(self, key):
        kept = {}
        for request in self.history.requests[key]:
            if request['outcome'] != 'answer' or request['execution'] is None:
                continue
            execution = self.history.execution(key, request['execution'])
            if execution is None:
                self.report(2, key, 'request %s names execution %s, which never was',
                            request['id'], request['execution'])
                continue
            if not request['whole']:
                self.report(2, key, 'request %s got another response than that of %s',
                            request['id'], execution)
            if execution.end > request['ended']:
                self.report(2, key, 'request %s got the response of %s at %.3f',
                            request['id'], execution, request['ended'])
            if request['idempotency'] == 'REPLAYED' and execution.kind != 'kept':
                self.report(2, key, 'request %s is a replay of %s', request['id'], execution)
            if self.is_kept(request, execution):
                kept.setdefault(execution.number, request['id'])
        if len(kept) > 1:
            self.report(2, key, 'different responses were delivered as kept: %s', ', '.join(
                'execution %s to request %s' % pair for pair in sorted(kept.items())))

    @staticmethod
    def is_kept(request, execution):
        return execution.kind == 'kept' and request['idempotency'] in ('NEW', 'REPLAYED')

    # 3

    def check_blocked(self, key):
        for request in self.history.requests[key]:
            if request['outcome'] != 'answer' or request['idempotency'] not in BLOCKED:
                continue
            life = self.last_sign_of_life(key, request)
            late = request['sent'] - life - self.lease
            if late > self.history.slack(life, request['sent']):
                self.report(3, key, 'request %s, sent at %.3f, got %s; the last who could hold the key '
                            'was alive at %.3f', request['id'], request['sent'], request['idempotency'], life)

    def last_sign_of_life(self, key, blocked):
        signs = [-FOREVER]
        for execution in self.history.executions[key]:
            if execution.start - SLACK <= blocked['ended']:
                killed = self.history.killed(execution)
                signs.append(self.outlast(execution.end if killed is None else min(killed, execution.end)))
        for request in self.history.requests[key]:
            if request is not blocked and request['sent'] <= blocked['ended'] and self.may_hold(request):
                signs.append(self.outlast(request['ended']))
        return max(signs)

    @staticmethod
    def may_hold(request):
        return request['outcome'] != 'answer' or request['idempotency'] == 'STORE_ERROR'

    def outlast(self, at):
        if at == FOREVER:
            return at
        breaks = self.history.outages_between(at - EXPLAINED, at + self.lease) \
            + self.history.stalls_between(at - EXPLAINED, at + EXPLAINED)
        return max([at] + [stretch.end for stretch in breaks])

    # 4

    def check_nothing_lost(self, key):
        kept = self.first_kept(key)
        if kept is None:
            return
        since, execution = kept

        for other in self.history.executions[key]:
            if other.start > since:
                self.report(4, key, '%s was kept by %.3f, and there is %s', execution, since, other)
        for request in self.history.requests[key]:
            if request['sent'] > since and request['outcome'] == 'answer' \
                    and not self.is_result(request, execution) and request['code'] != 'store_unavailable':
                self.report(4, key, '%s was kept by %.3f, and request %s, sent at %.3f, got %s %s (execution %s)',
                            execution, since, request['id'], request['sent'], request['status'],
                            request['idempotency'], request['execution'])

    @staticmethod
    def is_result(request, execution):
        if execution.kind == 'not_kept':
            return request['code'] == 'response_not_kept'
        return request['idempotency'] == 'REPLAYED' and request['execution'] == execution.number

    # When a kept response was known first, and of which execution.
    def first_kept(self, key):
        seen = []
        for request in self.history.requests[key]:
            if request['outcome'] == 'answer' and request['execution'] is not None \
                    and request['idempotency'] in ('NEW', 'REPLAYED'):
                seen.append((request['ended'], request['execution']))
        for event in self.history.logged[key]:
            if self.is_certain(event):
                seen.append((event['at'], event['number']))
        for at, number in sorted(seen):
            execution = self.history.execution(key, number)
            if execution is not None and execution.kind in ('kept', 'not_kept'):
                return at, execution
        return None

    # The request of a client that has disconnected is logged before its outcome is recorded in Redis, and a worker
    # that was stopped logs with an old clock.
    def is_certain(self, logged):
        around = logged['at'] - SLACK, logged['at'] + SLACK
        return not self.history.outages_between(*around) \
            and not self.history.stalls_between(*around, logged['worker']) \
            and not any(around[0] <= at <= around[1] for at in self.history.kills[logged['worker']])

    # 5

    def check_explained(self, key, request):
        if request['idempotency'] == 'STORE_ERROR':
            explained = self.store_was_out(request) or self.has_lapsed(key, request)
        elif request['execution'] is not None:
            explained = request['idempotency'] in ('NEW', 'REPLAYED')
        elif request['status'] == 409:
            explained = request['idempotency'] in BLOCKED or self.was_not_keepable(key, request)
        elif request['status'] in (502, 504):
            explained = self.has_broken(key, request)
        else:
            explained = False

        if not explained:
            self.report(5, key, 'nothing explains the response to request %s (%.3f to %.3f): %s %s %s (execution %s)',
                        request['id'], request['sent'], request['ended'], request['status'],
                        request['idempotency'], request['code'], request['execution'])

    def store_was_out(self, request):
        return bool(self.history.outages_between(request['sent'] - EXPLAINED, request['ended']))

    # The claim had expired by the time of the response, and there may have been another claim.
    def has_lapsed(self, key, request):
        for own in self.history.executions[key]:
            is_own = own.number == request['execution'] or self.is_broken_within(own, request)
            if is_own and (self.is_overtaken(own, request) or self.may_have_lapsed(own, request['ended'])):
                return True
        return False

    def is_overtaken(self, own, request):
        return any(own.start < other.start <= request['ended'] + SLACK for other in self.history.executions[own.key])

    @staticmethod
    def is_broken_within(execution, request):
        return execution.kind == 'broken' and request['sent'] <= execution.end <= request['ended']

    def was_not_keepable(self, key, request):
        return request['code'] == 'response_not_kept' and any(
            execution.kind in ('not_kept', 'large') and execution.start <= request['ended']
            for execution in self.history.executions[key])

    def has_broken(self, key, request):
        return any(self.is_broken_within(execution, request) for execution in self.history.executions[key])

    def check_log(self):
        killed = {str(worker) for worker in self.history.kills}
        for line in self.history.log:
            if not self.is_of_a_kill(line['text'], killed):
                self.report(5, '', 'the error log has: %s', line['text'])

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
        finals = [request for request in self.history.requests[key] if request.get('final')]
        if not finals:
            self.report(6, key, 'was not asked for in the end')
            return
        last = max(finals, key=lambda request: request['ended'])
        if last['outcome'] == 'answer' and (last['code'] == 'response_not_kept' or last['execution'] is not None):
            return
        self.report(6, key, 'has no result in the end: request %s got %s %s %s', last['id'], last['outcome'],
                    last.get('status'), last.get('idempotency'))


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
