"""Histories by hand for tools/torture_check.py: those that break a rule are found, the others pass.

Run by t/torture_check.t; writes TAP.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + '/../tools')
import torture_check

LEASE = 2.0


LOCATIONS = {
    'plain': {},
    'hold': {'hold': 3.0},
    'release': {'hold': 0.0},
    'window': {'hold': 4.0, 'ttl': 4.0},
    'small': {'hold': 4.0, 'ttl': 4.0, 'small': True},
    'alive': {'kept_open': True},
    'brief': {'timeout': 2.0},
    'bulky': {'bulky': True},
}


class Story:
    """A history of one key, in seconds; it ends successfully by default."""

    def __init__(self, location='plain'):
        self.events = [{'event': 'run', 'store': 'redis', 'lease': LEASE, 'end': 100.0, 'locations': LOCATIONS}]
        self.key = 'k'
        self.location = location
        self.ids = 0

    def executed(self, number, start, end=None, kind='kept', worker=10, **values):
        self.events.append(dict(event='start', key=self.key, location=self.location, number=number, at=start,
                                worker=worker, kind=kind, **values))
        if end is not None:
            self.events.append({'event': 'end', 'key': self.key, 'number': number, 'at': end})
        return self

    def request(self, sent, ended, outcome, **values):
        self.ids += 1
        self.events.append(dict(event='request', id=self.ids, key=self.key, location=self.location, sent=sent,
                                ended=ended, outcome=outcome, **values))
        return self

    def got(self, sent, ended, status, idempotency, execution=None, code='', whole=True, final=False, worker=10):
        return self.request(sent, ended, 'answer', status=status, idempotency=idempotency, execution=execution,
                            code=code, whole=whole, final=final, worker=worker)

    def new(self, sent, ended, number, **values):
        return self.got(sent, ended, 201, 'NEW', number, **values)

    def replayed(self, sent, ended, number, **values):
        return self.got(sent, ended, 201, 'REPLAYED', number, **values)

    def blocked(self, sent, ended=None, **values):
        return self.got(sent, ended or sent + 0.01, 409, 'IN_PROGRESS', code='request_in_progress', **values)

    def unknown(self, sent, ended=None, **values):
        return self.got(sent, ended or sent + 0.01, 409, 'UNKNOWN', code='outcome_unknown', **values)

    def store_down(self, sent, ended=None, **values):
        return self.got(sent, ended or sent + 0.01, 503, 'STORE_ERROR', code='store_unavailable', **values)

    def not_kept(self, sent, final=False):
        return self.got(sent, sent + 0.01, 409, 'NOT_KEPT', code='response_not_kept', final=final)

    def fault(self, name, at, until=None, **values):
        self.events.append(dict(event='fault', fault=name, at=at, until=at if until is None else until, **values))
        return self

    def killed(self, at, worker=10):
        return self.fault('worker_killed', at, worker=worker)

    def logged(self, number, at, worker=10, request=1, idempotency='NEW'):
        self.events.append({'event': 'logged', 'id': request, 'key': self.key, 'number': number, 'at': at,
                            'worker': worker, 'idempotency': idempotency})
        return self

    def alert(self, text):
        self.events.append({'event': 'log', 'level': 'alert', 'text': text})
        return self

    def cross_slot(self):
        self.events.append({'event': 'cross_slot', 'at': 11.0, 'command': 'EVALSHA', 'keys': 2})
        return self

    def believed(self):
        self.events.append({'event': 'believed', 'at': 11.0, 'got': 'ROLE'})
        return self

    def finally_new(self):
        return self.executed(1, 89.9, 90.0).new(89.8, 90.01, 1, final=True)

    def finally_replayed(self, number=1):
        return self.replayed(90.0, 90.01, number, final=True)

    def finally_unknown(self):
        return self.unknown(90.0, final=True)


def plain(location='plain'):
    return Story(location).executed(1, 10.0, 10.2).new(9.9, 10.3, 1)


def twice(location='plain', **first):
    """A second execution, whose response is kept."""
    end = first.pop('end', 10.2)
    start = first.pop('second', 13.0)
    story = Story(location).executed(1, 10.0, end, **first).executed(2, start, start + 0.1, worker=11)
    return story.new(start - 0.1, start + 0.2, 2).finally_replayed(2)


def broken(location='plain', status=502, **values):
    """An execution without a whole response."""
    end = values.pop('end', 10.2)
    return Story(location).executed(1, 10.0, end, kind='broken', **values).got(9.9, end + 0.1, status, 'UNKNOWN')


GOOD = {
    'an execution and a replay': plain().finally_replayed(),
    'a duplicate while it runs': plain().blocked(10.1).finally_replayed(),
    'a client that disconnects, and its response': Story().executed(1, 10.0, 10.2).request(9.9, 10.1, 'left')
        .logged(1, 10.3).finally_replayed(),
    'longer than leases': Story().executed(1, 10.0, 15.0).new(9.9, 15.1, 1).blocked(14.9).finally_replayed(),
    'an execution in the end': Story().request(9.0, 9.1, 'left').executed(1, 90.0, 90.1)
        .new(89.9, 90.2, 1, final=True),
    'a retriable response, then another': twice(kind='free', second=10.3).got(9.9, 10.25, 503, 'NEW', 1),

    # unknown outcomes, held for the window
    'a broken response': broken().unknown(11.0).unknown(50.0).finally_unknown(),
    'a response that comes too late': Story('brief').executed(1, 10.0, 13.0, kind='broken', timeout=2.0)
        .got(9.9, 12.0, 504, 'UNKNOWN').blocked(11.9).unknown(12.5).finally_unknown(),
    'a killed worker': Story().executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').blocked(11.9).unknown(12.2)
        .finally_unknown(),
    'a killed worker, and nothing was executed': Story().request(9.9, 10.1, 'lost').killed(10.1).blocked(11.9).unknown(12.2)
        .finally_unknown(),
    'a worker that was killed before a claim was released': Story().store_down(9.9, 11.0).fault('stalled', 9.8, 11.5)
        .killed(11.6).blocked(13.0).unknown(15.0).finally_unknown(),
    'a worker that gave up a claim after it was told to quit': Story().store_down(9.9, 11.0).fault('stalled', 9.8, 14.0)
        .fault('reload', 10.5, workers=[10, 12]).unknown(17.0).finally_unknown(),
    'unknown while a claim was not renewed': Story().executed(1, 10.0, 14.0).fault('stalled', 10.5, 12.9).unknown(13.0)
        .new(9.9, 14.1, 1).finally_replayed(),
    'unknown while its worker stood still': Story().executed(1, 10.0, 14.0).fault('worker_stalled', 10.5, 13.2, worker=10)
        .unknown(13.0).new(9.9, 14.1, 1).finally_replayed(),
    'unknown until the renewal after a jump': Story().executed(1, 10.0, 14.0).fault('clock', 11.0, seconds=31)
        .unknown(11.1).new(9.9, 14.1, 1).finally_replayed(),
    'a worker that stood still lost a connection that was kept open': Story('alive').got(9.9, 10.1, 502, 'UNKNOWN')
        .fault('worker_stalled', 9.0, 10.0, worker=10).unknown(20.0).finally_unknown(),
    'a worker that stood still used a connection that was idle for too long': Story('alive').got(9.9, 10.1, 502, 'UNKNOWN')
        .fault('worker_stalled', 5.0, 8.5, worker=10).unknown(20.0).finally_unknown(),
    'a worker that stood still was too late for a response': Story('brief').executed(1, 10.0, 10.2)
        .fault('worker_stalled', 9.95, 12.6, worker=10).got(9.9, 12.7, 504, 'UNKNOWN').unknown(20.0).finally_unknown(),

    'a worker that stood still got a response all the same': Story('brief')
        .executed(1, 10.0, 13.0, kind='broken', timeout=2.0).fault('worker_stalled', 11.0, 13.2, worker=10)
        .new(9.9, 13.3, 1).finally_replayed(),

    'blocked by a request that reaches the application late': Story().blocked(9.0).executed(1, 11.0, 11.2)
        .fault('pause', 9.0, 10.5).new(8.9, 11.3, 1).finally_replayed(),

    # held for a time
    'broken, held for its time, and another execution': twice('hold', kind='broken', second=13.2).got(9.9, 10.3, 502, 'UNKNOWN')
        .unknown(13.0),
    'killed, held for its time, and another execution': twice('hold', second=15.0).killed(10.15).request(9.9, 10.1, 'lost')
        .blocked(12.0).unknown(14.9),
    'stalled, then killed, and another execution': twice('hold', end=14.0, second=16.0).request(9.9, 13.0, 'lost')
        .fault('worker_stalled', 11.6, 14.0, worker=10).killed(13.0),
    'past the window': twice('window', second=14.3).new(9.9, 10.3, 1),
    'a jump of the clock past the hold': twice('hold', kind='broken', second=10.6).got(9.9, 10.3, 502, 'UNKNOWN')
        .fault('clock', 10.5, seconds=20),
    'a jump of the clock past lease and hold': twice('hold', end=14.0, second=10.6).fault('clock', 10.5, seconds=20)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1),
    'a jump of the clock after a kill': twice('hold', second=10.6).killed(10.1).request(9.9, 10.1, 'lost')
        .fault('clock', 10.5, seconds=20),
    'held longer after a jump back': broken('hold').fault('clock', 11.0, seconds=-60).unknown(20.0).unknown(24.9)
        .executed(2, 25.2, 25.3).new(25.1, 25.4, 2).finally_replayed(2),

    'a store that is full for longer than an outcome is held': twice('hold', second=18.0).fault('store_full', 10.1, 17.5)
        .got(9.9, 10.3, 201, 'STORE_ERROR', 1),

    'jumps back, one after the other': Story('hold').executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost')
        .fault('clock', 12.0, seconds=-60).blocked(13.0).fault('clock', 16.5, seconds=-60).blocked(30.0).blocked(31.9)
        .unknown(34.9).executed(2, 35.2, 35.3).new(35.1, 35.4, 2).finally_replayed(2),

    'there again after a jump back': Story('hold').executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').blocked(11.0)
        .fault('clock', 20.0, seconds=-60).blocked(30.0).blocked(31.9).unknown(34.9)
        .executed(2, 35.2, 35.3).new(35.1, 35.4, 2).finally_replayed(2),

    # released
    'broken and released': twice('release', kind='broken', second=10.3).got(9.9, 10.25, 502, 'NEW'),
    'too late and released, both at once': twice('release', kind='broken', timeout=2.0, end=13.0, second=12.1)
        .got(9.9, 12.0, 504, 'NEW'),
    'killed and released': twice('release', second=12.2).killed(10.1).request(9.9, 10.1, 'lost').blocked(11.9),
    'killed before the outcome is recorded in the store': twice('release', second=12.3).killed(10.25)
        .request(9.9, 10.25, 'lost'),
    'both at once after a kill': twice('release', end=14.0, second=12.2).killed(10.1).request(9.9, 10.1, 'lost'),
    'logged, and not recorded in Redis yet': twice('release', second=13.0).fault('stalled', 10.15, 12.7)
        .request(9.9, 10.2, 'left').logged(1, 10.3),
    'a claim that could not be renewed': twice('release', end=14.0, second=12.9).fault('stalled', 10.5, 12.5),
    'an outcome that could not be recorded': twice('release', second=13.0).fault('killed', 10.1, 12.0)
        .got(9.9, 10.3, 201, 'STORE_ERROR', 1),
    'its worker stood still': twice('release', end=14.0, second=12.9).fault('worker_stalled', 10.5, 13.5, worker=10)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1),
    'overtaken by one that was broken, and a third execution': twice('release', end=20.0, second=14.0)
        .fault('stalled', 10.5, 12.5).executed(3, 12.9, 13.0, kind='broken').got(9.9, 20.1, 201, 'STORE_ERROR', 1),
    'overtaken, and not kept': twice('release', end=14.0, second=12.9).fault('stalled', 10.5, 12.5)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1),
    'its worker stood still, and nothing was left to release': Story('release').executed(1, 10.0, 14.0, kind='free')
        .fault('worker_stalled', 10.5, 13.5, worker=10).got(9.9, 14.1, 201, 'STORE_ERROR', 1)
        .executed(2, 90.0, 90.1).new(89.9, 90.2, 2, final=True),
    'recorded by a worker that was stopped': Story('hold').executed(1, 10.0, 10.2, kind='broken')
        .fault('worker_stalled', 10.1, 13.0, worker=10).request(9.9, 10.0, 'left').unknown(14.8)
        .executed(2, 16.3, 16.4, worker=11).new(16.2, 16.5, 2).finally_replayed(2),

    # claims under which nothing was sent
    'a lost grant': Story().store_down(10.0, 11.0).fault('reply_lost', 9.9, 11.0).blocked(11.5).executed(1, 14.3, 14.4)
        .new(14.2, 14.5, 1).finally_replayed(),
    'a lost grant, told after an outage': Story().store_down(10.0, 11.0).fault('stalled', 9.9, 14.0).blocked(15.9)
        .executed(1, 17.4, 17.5).new(17.3, 17.6, 1).finally_replayed(),
    'refused during a failover': Story().store_down(10.0, 11.0).fault('failover', 9.0, 9.5).finally_new(),
    'refused while a node of a cluster sends a wrong map': Story().store_down(10.0, 11.0).fault('lied_map', 9.0, 10.5).finally_new(),
    'refused by a half-open connection': Story().store_down(30.0, 31.0)
        .fault('half_open', 10.0, 31.5, first=30.0).finally_new(),
    'a half-open connection that was not used': plain().fault('half_open', 10.0, 90.0, first=None).finally_replayed(),
    'a half-open connection, and the host is down': plain().fault('half_open', 10.0, 36.0, first=30.0)
        .fault('stalled', 30.0, 34.0).finally_replayed(),
    'a grant that was read after its lease': Story().store_down(10.0, 12.6).fault('worker_stalled', 10.0, 12.5, worker=10)
        .executed(1, 13.0, 13.1).new(12.9, 13.2, 1).finally_replayed(),
    'blocked after a jump back': Story().executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost')
        .fault('clock', 11.0, seconds=-60).blocked(20.0).blocked(21.9).unknown(22.2).finally_unknown(),
    'in progress again after a jump back': Story().executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').unknown(19.0)
        .fault('clock', 20.0, seconds=-60).blocked(30.0).blocked(31.9).unknown(32.2).finally_unknown(),
    'a client that left while its request waited': Story().request(9.9, 10.0, 'left').logged(None, 13.0).blocked(14.0)
        .executed(1, 20.0, 20.1).new(19.9, 20.2, 1).finally_replayed(),

    # responses that are not kept
    'a response that must not be kept': Story().executed(1, 10.0, 10.2, kind='not_kept').new(9.9, 10.3, 1).not_kept(11.0)
        .not_kept(90.0, final=True),
    'a response that is too large': Story().executed(1, 10.0, 10.2, kind='large').new(9.9, 10.3, 1)
        .not_kept(90.0, final=True),
    'a full store': Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'STORE_ERROR', 1).fault('store_full', 9.95, 14.0)
        .blocked(13.9).not_kept(16.0).not_kept(90.0, final=True),
    'a store that is full for new keys': Story().store_down(10.0).fault('store_full', 9.0, 14.0).executed(1, 15.0, 15.1)
        .new(14.9, 15.2, 1).finally_replayed(),
    'a small store': Story('small').store_down(10.0).executed(1, 15.0, 15.1).new(14.9, 15.2, 1).not_kept(16.0)
        .executed(2, 90.0, 90.1).new(89.9, 90.2, 2, final=True),
    'a value that Redis refuses': Story('bulky').executed(1, 10.0, 10.2).new(9.9, 10.3, 1).fault('values_refused', 9.0, 12.0)
        .not_kept(11.0).not_kept(90.0, final=True),
    'a large value that Redis takes': plain('bulky').finally_replayed(),

    'killed, and executed again a lease and a hold after a grant that was read late': twice('hold', second=14.0)
        .request(9.2, 10.1, 'lost').killed(10.1),
    'lost by a jump of the clock while the store is full': twice('hold', second=15.0).fault('killed', 10.1, 10.4)
        .fault('clock', 10.5, seconds=12).fault('store_full', 10.45, 14.9).got(9.9, 10.3, 201, 'STORE_ERROR', 1),
    'delivered as not to be kept, and logged as not recorded': Story('hold').executed(1, 10.0, 10.2, kind='not_kept')
        .fault('clock', 10.1, seconds=14).fault('store_full', 10.15, 16.0).new(9.9, 11.2, 1)
        .logged(1, 11.5, idempotency='STORE_ERROR').executed(2, 17.0, 17.1, kind='not_kept').new(16.9, 17.2, 2)
        .logged(2, 17.3, request=2).not_kept(90.0, final=True),
    'refused right after the stall of its worker': plain().fault('worker_stalled', 18.0, 21.0, worker=10)
        .store_down(21.02).finally_replayed(),

    'refused while Redis is down': plain().fault('killed', 20.0, 21.0).store_down(20.5).store_down(21.9)
        .finally_replayed(),
    'kept over all faults': plain().killed(11.0).fault('reload', 12.0, workers=[11]).fault('killed', 13.0, 15.0)
        .fault('clock', 16.0, seconds=31).fault('clock', 17.0, seconds=-60).replayed(20.0, 20.1, 1).finally_replayed(),
    'the log of a kill': plain().finally_replayed().killed(11.0, worker=77)
        .alert('1#1: worker process 77 exited on signal 9')
        .alert('1#1: shared memory zone "idempotency_store main" was locked by 77'),
}

# Each with the rules that are broken.
BAD = {
    'two at once': (twice(end=14.0, second=10.5), {1}),
    'two after one another': (twice(second=20.0), {1}),
    'two at once, past a lease': (twice(end=14.0, second=13.0), {1}),
    'executed again after a broken response': (twice(kind='broken', second=60.0), {1}),
    'executed again after a response that came too late': (twice('brief', kind='broken', timeout=2.0, end=13.0, second=60.0), {1}),
    'executed again after a killed worker': (twice(second=60.0).killed(10.1).request(9.9, 10.1, 'lost'), {1}),
    'executed again after an outage': (twice(end=14.0, second=12.9).fault('stalled', 10.5, 12.5), {1}),
    'executed again after the stall of its worker': (
        twice(end=14.0, second=12.9).fault('worker_stalled', 10.5, 13.5, worker=10), {1}),
    'executed again after a lost reply': (twice(second=13.0).fault('reply_lost', 10.1, 12.5), {1}),
    'executed again after a full store': (twice(second=15.0).fault('store_full', 10.1, 14.5)
                                          .got(9.9, 10.3, 201, 'STORE_ERROR', 1), {1}),
    'executed again after a refused value': (twice('bulky', second=15.0).fault('values_refused', 9.0, 14.5), {1}),
    'executed again after a jump of the clock': (twice(end=14.0, second=11.1).fault('clock', 11.0, seconds=31), {1}),
    'executed again after a jump back of the clock': (twice(second=13.0).fault('clock', 11.0, seconds=-60), {1}),
    'retriable, and executed before it has ended': (twice(kind='free', end=10.8, second=10.5), {1}),
    'within the window': (twice('window', second=13.0).new(9.9, 10.3, 1), {1, 4}),
    'before the hold has passed': (twice('hold', kind='broken', second=12.0), {1}),
    'broken, held and executed twice': (twice('hold', kind='broken', second=13.3).executed(3, 13.6, 13.7), {1, 4}),
    'killed, and executed before lease and hold have passed': (twice('hold', second=13.5).killed(10.1), {1}),
    'nor is a full store': (twice('release', second=12.4).fault('store_full', 10.1, 12.3)
                            .got(9.9, 10.3, 201, 'STORE_ERROR', 1), {1}),
    'overtaken, and a third execution': (
        twice('release', end=20.0, second=14.0).fault('stalled', 10.5, 12.5).executed(3, 12.9, 13.9)
        .got(9.9, 20.1, 201, 'STORE_ERROR', 1), {1}),
    'killed, and executed too early for its last renewal': (
        twice('hold', end=14.0, second=16.0).request(9.9, 13.0, 'lost').killed(13.0), {1}),
    'a short jump of the clock is no excuse': (twice('hold', kind='broken', second=11.2).fault('clock', 11.0, seconds=1), {1}),
    'nor is a jump back': (twice('hold', kind='broken', second=11.5).fault('clock', 11.0, seconds=-20), {1}),
    'nor is a jump long before': (twice('hold', end=14.0, second=11.5).fault('clock', 5.0, seconds=31), {1}),
    'renewed after an outage, and executed again': (
        twice('release', end=30.0, second=20.0).fault('stalled', 10.5, 13.5), {1}),
    'released, and executed before its timeout': (twice('release', kind='broken', timeout=2.0, end=13.0, second=11.0), {1}),
    'released, and another worker was killed': (twice('release', second=13.0).killed(10.1, worker=12), {1}),
    'released, and killed long after its response': (twice('release', second=20.0).killed(15.0), {1}),
    'released, and executed before the lease has passed': (twice('release', second=11.0).killed(10.1), {1}),
    'released, killed late, and executed before the lease has passed': (
        twice('release', end=16.0, second=14.3).killed(14.0), {1}),
    'a short stall is no excuse': (twice('release', end=14.0, second=13.0).fault('stalled', 10.5, 10.8), {1}),
    'nor are closed connections': (twice('release', end=14.0, second=13.0).fault('connections_closed', 10.5), {1}),
    'nor are forgotten scripts': (twice('release', end=14.0, second=13.0).fault('scripts_flushed', 10.5), {1}),
    'nor is the stall of another worker': (
        twice('release', end=14.0, second=13.0).fault('worker_stalled', 10.5, 13.5, worker=11), {1}),
    'nor is a short stall of its own': (
        twice('release', end=14.0, second=13.0).fault('worker_stalled', 10.5, 10.8, worker=10), {1}),
    'nor is a reload': (twice('release', end=14.0, second=13.0).fault('reload', 10.5, workers=[10]), {1}),
    'nor is an outage long before': (twice('release', end=24.0, second=13.0).fault('killed', 2.0, 5.0), {1}),
    'an outage, and executed before the lease has passed': (
        twice('release', end=14.0, second=11.0).fault('stalled', 10.1, 12.0), {1}),

    'a response of another execution': (plain().replayed(20.0, 20.1, 1, whole=False).finally_replayed(), {2}),
    'an execution that never was': (plain().replayed(20.0, 20.1, 3).finally_replayed(), {2, 4}),
    'a response before the end of its execution': (Story().executed(1, 10.0, 10.5).new(9.9, 10.3, 1).finally_replayed(), {2}),
    'a replay of what was free': (twice(kind='free', second=10.3).replayed(10.21, 10.25, 1), {2}),
    'a replay of what came too late': (Story('brief').executed(1, 10.0, 13.0, kind='broken', timeout=2.0)
                                       .got(9.9, 12.1, 504, 'UNKNOWN').finally_replayed(), {2}),
    'two kept responses': (twice('release', second=12.3).killed(10.25).new(9.9, 12.3, 1), {2, 4}),
    'two replays, each of another': (twice('release', second=12.3).killed(10.25).replayed(12.2, 12.25, 1), {2, 4}),

    'blocked without a holder': (Story().blocked(5.0).executed(1, 10.0, 10.2).new(9.9, 10.3, 1).finally_replayed(), {3}),
    'in progress long after a kill': (Story().executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').blocked(13.5)
                                      .finally_unknown(), {3}),
    'in progress after a broken response': (broken().blocked(14.0).finally_unknown(), {3}),
    'in progress after a response that came too late': (
        Story('brief').executed(1, 10.0, 16.0, kind='broken', timeout=2.0).got(9.9, 12.0, 504, 'UNKNOWN').blocked(14.5)
        .finally_unknown(), {3}),
    'unknown without a reason': (Story().unknown(5.0).executed(1, 10.0, 10.2).new(9.9, 10.3, 1).finally_replayed(), {3}),
    'unknown while it runs and nothing has failed': (Story().executed(1, 10.0, 14.0).unknown(12.0).new(9.9, 14.1, 1)
                                                     .finally_replayed(), {3}),
    'unknown after a short stall': (Story().executed(1, 10.0, 14.0).fault('stalled', 10.5, 10.8).unknown(12.0)
                                    .new(9.9, 14.1, 1).finally_replayed(), {3}),
    'unknown while the store is full': (Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'STORE_ERROR', 1)
                                        .fault('store_full', 10.1, 15.0).unknown(13.0).finally_replayed(), {3}),
    'unknown in the end, and nothing has failed': (Story().request(9.9, 10.0, 'left').logged(None, 10.1).finally_unknown(), {3}),
    'unknown after a lost grant': (Story().store_down(10.0, 11.0).fault('reply_lost', 9.9, 11.0).finally_unknown(), {3}),
    'unknown after a lost grant, and another worker was killed': (
        Story().store_down(10.0, 11.0).fault('reply_lost', 9.9, 11.0).killed(11.5, worker=11).finally_unknown(), {3}),
    'unknown after a lost grant, and its worker was killed later': (
        Story().store_down(10.0, 11.0).fault('reply_lost', 9.9, 11.0).killed(30.0).finally_unknown(), {3}),
    'blocked long after a lost grant': (
        Story().store_down(10.0, 11.0).fault('reply_lost', 9.9, 10.9).blocked(14.7).executed(1, 20.0, 20.1)
        .new(19.9, 20.2, 1).finally_replayed(), {3}),
    'blocked long after an outage': (Story().store_down(10.0, 11.0).fault('stalled', 9.9, 12.0).blocked(15.5)
                                     .executed(1, 20.0, 20.1).new(19.9, 20.2, 1).finally_replayed(), {3}),
    'blocked too long after a client has left': (Story().request(9.9, 10.0, 'left').logged(None, 10.1).blocked(12.5)
                                                 .executed(1, 20.0, 20.1).new(19.9, 20.2, 1).finally_replayed(), {3}),
    'unknown after the hold': (twice('hold', kind='broken', second=20.0).unknown(16.5), {3}),
    'unknown after the hold of a killed worker': (twice('hold', second=20.0).killed(10.1).unknown(16.5), {3}),
    'unknown where it is released': (twice('release', kind='broken', second=10.4).unknown(10.3), {3}),
    'blocked twice a lease after a jump back': (
        Story().executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').fault('clock', 11.0, seconds=-60).blocked(20.0)
        .blocked(24.0).finally_unknown(), {3}),

    'there again after a jump back, and its time was seen to be over': (
        Story('hold').executed(1, 10.0).killed(10.1).request(9.9, 10.1, 'lost').executed(2, 18.0, 18.1, kind='free')
        .got(17.9, 18.2, 503, 'NEW', 2).fault('clock', 20.0, seconds=-60).blocked(30.0).executed(3, 35.2, 35.3)
        .new(35.1, 35.4, 3).finally_replayed(3), {3}),
    'in progress again after a jump back, and the outcome was recorded': (
        broken().unknown(12.0).fault('clock', 20.0, seconds=-60).blocked(30.0).finally_unknown(), {3}),

    'executed after it was delivered': (plain('release').killed(10.25).executed(2, 14.0, 14.1, worker=11).finally_replayed(), {4}),
    'executed after it was logged': (Story().executed(1, 10.0, 10.2).request(9.9, 10.1, 'left').logged(1, 10.3).killed(12.0)
                                     .executed(2, 20.0, 20.1, worker=11).finally_replayed(), {1, 4}),
    'blocked after it was delivered': (plain().blocked(10.5).finally_replayed(), {4}),
    'unknown after it was delivered': (plain().fault('stalled', 10.0, 13.0).unknown(10.5).finally_replayed(), {4}),
    'another response after a restart of Redis': (plain('release').fault('killed', 10.1, 12.0).executed(2, 14.0, 14.1)
                                                  .new(13.9, 14.2, 2).finally_replayed(2), {2, 4}),
    'executed after it was delivered as not to be kept': (
        Story('release').executed(1, 10.0, 10.2, kind='not_kept').new(9.9, 10.3, 1).killed(10.25)
        .executed(2, 14.0, 14.1, worker=11, kind='not_kept').not_kept(90.0, final=True), {4}),
    'logged as not recorded without a reason': (
        Story('hold').executed(1, 10.0, 10.2, kind='not_kept').new(9.9, 11.2, 1).logged(1, 11.5, idempotency='STORE_ERROR')
        .not_kept(90.0, final=True), {5}),
    'delivered as kept, and logged as not recorded': (
        Story('hold').executed(1, 10.0, 10.2).fault('clock', 10.1, seconds=14).fault('store_full', 10.15, 16.0)
        .new(9.9, 11.2, 1).logged(1, 11.5, idempotency='STORE_ERROR').executed(2, 17.0, 17.1).new(16.9, 17.2, 2)
        .finally_replayed(2), {2, 4}),
    'recorded as not kept after it was kept': (plain().not_kept(20.0).finally_replayed(), {4, 5}),
    'replayed, and recorded as not kept': (plain().fault('store_full', 10.0, 12.0).replayed(13.0, 13.1, 1)
                                           .not_kept(90.0, final=True), {4}),
    'not kept, and the store was full long after': (plain().fault('store_full', 20.0, 22.0).not_kept(23.0)
                                                    .not_kept(90.0, final=True), {4, 5}),

    'an internal error': (plain().got(20.0, 20.1, 500, '').finally_replayed(), {4, 5}),
    'refused while the store is there': (plain().store_down(20.0).finally_replayed(), {5}),
    'refused long after it is back': (plain().fault('killed', 16.0, 17.0).store_down(20.0).finally_replayed(), {5}),
    'refused because scripts were forgotten': (plain().fault('scripts_flushed', 20.0).store_down(20.1).finally_replayed(), {5}),
    'refused because of a large value': (plain().fault('values_refused', 19.0, 21.0).store_down(20.1).finally_replayed(), {5}),
    'STORE_ERROR while the store is there': (Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'STORE_ERROR', 1)
                                             .finally_replayed(), {5}),
    'STORE_ERROR because of a stall, and the outcome is held': (
        Story().executed(1, 10.0, 14.0).fault('worker_stalled', 10.5, 11.5, worker=10)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1).finally_replayed(), {5}),
    'a bad gateway and STORE_ERROR while the store is there': (
        Story().executed(1, 10.0, 10.2, kind='broken').got(9.9, 10.3, 502, 'STORE_ERROR').finally_unknown(), {5}),
    'a 502 without a fault': (Story().got(5.0, 5.1, 502, 'NEW').executed(1, 10.0, 10.2).new(9.9, 10.3, 1)
                              .finally_replayed(), {5}),
    'a connection that was kept open too long': (Story('alive').got(9.9, 10.1, 502, 'UNKNOWN').finally_unknown(), {3, 5}),
    'a connection that was kept open too long, and another worker stood still': (
        Story('alive').got(9.9, 10.1, 502, 'UNKNOWN').fault('worker_stalled', 8.0, 9.5, worker=11).finally_unknown(), {3, 5}),
    'a connection that was kept open too long, long after a stall': (
        Story('alive').got(9.9, 10.1, 502, 'UNKNOWN').fault('worker_stalled', 5.0, 7.5, worker=10).finally_unknown(), {3, 5}),
    'a 504 before the time is over': (Story('brief').executed(1, 10.0, 10.2).got(9.9, 10.4, 504, 'UNKNOWN').finally_unknown(),
                                      {3, 5}),
    'not kept without a reason': (Story().not_kept(5.0).executed(1, 10.0, 10.2).new(9.9, 10.3, 1).finally_replayed(), {5}),
    'a status that is out of place': (Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'UNSCOPED', 1)
                                      .finally_replayed(), {5}),
    'a worker that died by itself': (plain().finally_replayed().alert('1#1: worker process 77 exited on signal 11'), {5}),
    'a worker that was aborted': (plain().finally_replayed().killed(11.0, worker=77)
                                  .alert('1#1: worker process 77 exited on signal 6'), {5}),
    'a socket left open': (plain().finally_replayed().alert('7#7: open socket #3 left in connection 4'), {5}),
    'a sentinel that lies was believed': (plain().finally_replayed().believed(), {5}),
    'refused while a sentinel lies': (Story().store_down(10.0, 11.0).fault('lied_sentinel', 9.0, 10.5).finally_new(), {5}),
    'refused while slots move': (Story().store_down(10.0, 11.0).fault('moved', 9.0, 10.5).finally_new(), {5}),
    'refused long before a half-open connection is used': (
        Story().store_down(20.0, 21.0).fault('half_open', 10.0, 31.5, first=30.0).finally_new(), {5}),
    'a half-open connection that was noticed late': (
        plain().fault('half_open', 10.0, 36.0, first=30.0).finally_replayed(), {5}),
    'a command with keys of several slots': (plain().finally_replayed().cross_slot(), {5}),

    'never asked for in the end': (plain(), {6}),
    'lost in the end': (plain().request(90.0, 95.0, 'lost', final=True), {6}),
    'in progress in the end': (Story().executed(1, 89.9).killed(89.95).request(89.8, 89.95, 'lost').blocked(90.0, final=True), {6}),
    'unknown in the end, and held only for a time': (
        Story('hold').executed(1, 89.0, 89.1, kind='broken').got(88.9, 89.2, 502, 'UNKNOWN').unknown(90.0, final=True), {6}),
}


def main():
    print('1..%d' % (len(GOOD) + len(BAD)))
    number = 0
    failed = 0
    for name, story, broken in [(name, story, set()) for name, story in GOOD.items()] \
            + [(name, *story) for name, story in BAD.items()]:
        number += 1
        violations = torture_check.check(story.events)
        found = {violation.rule for violation in violations}
        rules = ' (rule %s)' % ', '.join(map(str, sorted(broken))) if broken else ''
        print('%s %d - %s%s' % ('ok' if found == broken else 'not ok', number, name, rules))
        if found != broken:
            failed += 1
            for violation in violations:
                print('# rule %d, key %s: %s' % violation)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
