"""Histories by hand for tools/torture_check.py: those that break a rule are found, the others pass.

Run by t/torture_check.t; writes TAP.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + '/../tools')
import torture_check

LEASE = 2.0


class Story:
    """A history of one key, in seconds; it ends successfully by default."""

    def __init__(self, store='redis'):
        self.events = [{'event': 'run', 'store': store, 'lease': LEASE, 'end': 100.0}]
        self.key = 'k'
        self.ids = 0

    def executed(self, number, start, end=None, kind='kept', worker=10):
        self.events.append({'event': 'start', 'key': self.key, 'number': number, 'at': start, 'worker': worker,
                            'kind': kind})
        if end is not None:
            self.events.append({'event': 'end', 'key': self.key, 'number': number, 'at': end})
        return self

    def request(self, sent, ended, outcome, **values):
        self.ids += 1
        self.events.append(dict(event='request', id=self.ids, key=self.key, sent=sent, ended=ended, outcome=outcome,
                                **values))
        return self

    def got(self, sent, ended, status, idempotency, execution=None, code='', whole=True, final=False):
        return self.request(sent, ended, 'answer', status=status, idempotency=idempotency, execution=execution,
                            code=code, whole=whole, final=final)

    def new(self, sent, ended, number, **values):
        return self.got(sent, ended, 201, 'NEW', number, **values)

    def replayed(self, sent, ended, number, **values):
        return self.got(sent, ended, 201, 'REPLAYED', number, **values)

    def blocked(self, sent, ended=None, idempotency='IN_PROGRESS'):
        code = 'request_in_progress' if idempotency == 'IN_PROGRESS' else 'outcome_unknown'
        return self.got(sent, ended or sent + 0.01, 409, idempotency, code=code)

    def store_down(self, sent, ended=None):
        return self.got(sent, ended or sent + 0.01, 503, 'STORE_ERROR', code='store_unavailable')

    def not_kept(self, sent, final=False):
        return self.got(sent, sent + 0.01, 409, 'NOT_KEPT', code='response_not_kept', final=final)

    def fault(self, name, at, until=None, **values):
        self.events.append(dict(event='fault', fault=name, at=at, until=at if until is None else until, **values))
        return self

    def killed(self, at, worker=10):
        return self.fault('worker_killed', at, worker=worker)

    def logged(self, number, at, worker=10):
        self.events.append({'event': 'logged', 'key': self.key, 'number': number, 'at': at, 'worker': worker})
        return self

    def alert(self, text):
        self.events.append({'event': 'log', 'level': 'alert', 'text': text})
        return self

    def finally_replayed(self, number=1):
        return self.replayed(90.0, 90.01, number, final=True)


def plain():
    return Story().executed(1, 10.0, 10.2).new(9.9, 10.3, 1)


def twice(**first):
    """A second execution, whose response is kept."""
    end = first.pop('end', 10.2)
    start = first.pop('second', 13.0)
    story = Story().executed(1, 10.0, end, **first).executed(2, start, start + 0.1, worker=11)
    return story.new(start - 0.1, start + 0.2, 2).finally_replayed(2)


GOOD = {
    'an execution and a replay': plain().finally_replayed(),
    'a duplicate while it runs': plain().blocked(10.1).finally_replayed(),
    'a client that disconnects, and its response': Story().executed(1, 10.0, 10.2).request(9.9, 10.1, 'left').logged(1, 10.3)
        .finally_replayed(),
    'longer than leases': Story().executed(1, 10.0, 15.0).new(9.9, 15.1, 1).blocked(14.9).finally_replayed(),
    'an execution in the end': Story().request(9.0, 9.1, 'left').executed(1, 90.0, 90.1)
        .new(89.9, 90.2, 1, final=True),
    'a retriable response, then another': twice(kind='free', second=10.3).got(9.9, 10.25, 503, 'NEW', 1),
    'a broken response, then another': twice(kind='broken', second=12.3).got(9.9, 10.3, 502, 'NEW')
        .blocked(11.0, idempotency='UNKNOWN'),
    'a killed worker, then another execution': twice(second=12.2).killed(10.1).request(9.9, 10.1, 'lost'),
    'logged, and not recorded in Redis yet': twice(second=13.0).fault('stalled', 10.15, 12.7).request(9.9, 10.2, 'left')
        .logged(1, 10.3),
    'both at once after a kill': twice(end=14.0, second=12.2).killed(10.1).request(9.9, 10.1, 'lost'),
    'killed before the outcome is recorded in the store': twice(second=12.3).killed(10.25).request(9.9, 10.25, 'lost'),
    'a claim that could not be renewed': twice(end=14.0, second=12.9).fault('stalled', 10.5, 12.5),
    'an outcome that could not be recorded': twice(second=13.0).fault('killed', 10.1, 11.0).got(9.9, 10.3, 201, 'STORE_ERROR', 1),
    'its worker stood still': twice(end=14.0, second=12.9).fault('worker_stalled', 10.5, 13.5, worker=10)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1),
    'its worker stood still, and nothing was left to release': Story('memory').executed(1, 10.0, 14.0, kind='free')
        .fault('worker_stalled', 10.5, 13.5, worker=10).got(9.9, 14.1, 201, 'STORE_ERROR', 1)
        .executed(2, 90.0, 90.1).new(89.9, 90.2, 2, final=True),
    'its worker stood still, and the application broke off': Story('memory').executed(1, 10.0, 10.6, kind='broken')
        .fault('worker_stalled', 10.5, 13.5, worker=10).got(9.9, 13.6, 502, 'STORE_ERROR')
        .executed(2, 12.3, 13.0, worker=11).new(12.2, 13.1, 2).finally_replayed(2),
    'recorded by a worker that was stopped': Story('memory').executed(1, 10.0, 10.2, kind='broken')
        .fault('worker_stalled', 10.1, 13.0, worker=10).request(9.9, 10.0, 'left').blocked(14.8, idempotency='UNKNOWN')
        .executed(2, 15.1, 15.2, worker=11).new(15.0, 15.3, 2).finally_replayed(2),
    'overtaken, and not kept': twice(end=14.0, second=12.9).fault('stalled', 10.5, 12.5)
        .got(9.9, 14.1, 201, 'STORE_ERROR', 1),
    'blocked for a lease after a kill': Story().executed(1, 10.0).killed(10.1).blocked(11.9).executed(2, 12.2, 12.3, worker=11)
        .new(12.1, 12.4, 2).finally_replayed(2),
    'blocked by a claim whose reply was lost': Story().store_down(10.0, 11.0).fault('stalled', 9.9, 14.0).blocked(15.9)
        .executed(1, 16.2, 16.3).new(16.1, 16.4, 1).finally_replayed(),
    'refused while Redis is down': plain().fault('killed', 20.0, 21.0).store_down(20.5).store_down(21.9)
        .finally_replayed(),
    'a response that must not be kept': Story().executed(1, 10.0, 10.2, kind='not_kept').new(9.9, 10.3, 1).not_kept(11.0)
        .not_kept(90.0, final=True),
    'a response that is too large': Story().executed(1, 10.0, 10.2, kind='large').new(9.9, 10.3, 1)
        .not_kept(90.0, final=True),
    'kept over all faults': plain().killed(11.0).fault('reload', 12.0).fault('killed', 13.0, 15.0)
        .replayed(20.0, 20.1, 1).finally_replayed(),
    'the log of a kill': plain().finally_replayed().killed(11.0, worker=77)
        .alert('1#1: worker process 77 exited on signal 9')
        .alert('1#1: shared memory zone "idempotency_store main" was locked by 77'),
}

# Each with the rules that are broken.
BAD = {
    'two at once': (twice(end=14.0, second=10.5), {1}),
    'two after one another': (twice(second=20.0), {1}),
    'two at once, past a lease': (twice(end=14.0, second=13.0), {1}),
    'another worker was killed': (twice(second=13.0).killed(10.1, worker=12), {1}),
    'killed long after its response': (twice(second=20.0).killed(15.0), {1}),
    'killed, and executed before the lease has passed': (twice(second=11.0).killed(10.1), {1}),
    'killed late, and executed before the lease has passed': (twice(end=16.0, second=14.3).killed(14.0), {1}),
    'broken, and executed before the lease has passed': (twice(kind='broken', second=11.0), {1}),
    'retriable, and executed before it has ended': (twice(kind='free', end=10.8, second=10.5), {1}),
    'a short stall is no excuse': (twice(end=14.0, second=13.0).fault('stalled', 10.5, 10.8), {1}),
    'nor are closed connections': (twice(end=14.0, second=13.0).fault('connections_closed', 10.5), {1}),
    'nor are forgotten scripts': (twice(end=14.0, second=13.0).fault('scripts_flushed', 10.5), {1}),
    'nor is the stall of another worker': (
        twice(end=14.0, second=13.0).fault('worker_stalled', 10.5, 13.5, worker=11), {1}),
    'nor is a short stall of its own': (twice(end=14.0, second=13.0).fault('worker_stalled', 10.5, 10.8, worker=10), {1}),
    'nor is a reload': (twice(end=14.0, second=13.0).fault('reload', 10.5), {1}),
    'nor is an outage long before': (twice(end=24.0, second=13.0).fault('killed', 2.0, 5.0), {1}),
    'an outage, and executed before the lease has passed': (twice(end=14.0, second=11.0).fault('stalled', 10.1, 12.0), {1}),

    'a response of another execution': (plain().replayed(20.0, 20.1, 1, whole=False).finally_replayed(), {2}),
    'an execution that never was': (plain().replayed(20.0, 20.1, 3).finally_replayed(), {2, 4}),
    'a response before the end of its execution': (Story().executed(1, 10.0, 10.5).new(9.9, 10.3, 1).finally_replayed(), {2}),
    'a replay of what was free': (twice(kind='free', second=10.3).replayed(10.21, 10.25, 1), {2}),
    'two kept responses': (twice(second=12.3).killed(10.25).new(9.9, 12.3, 1), {2, 4}),
    'two replays, each of another': (twice(second=12.3).killed(10.25).replayed(12.2, 12.25, 1), {2, 4}),

    'blocked without a holder': (Story().blocked(5.0).executed(1, 10.0, 10.2).new(9.9, 10.3, 1).finally_replayed(), {3}),
    'blocked too long after a kill': (Story().executed(1, 10.0).killed(10.1).blocked(13.5).executed(2, 20.0, 20.1, worker=11)
                                      .new(19.9, 20.2, 2).finally_replayed(2), {3}),
    'blocked too long after a broken response': (twice(kind='broken', second=20.0).blocked(14.0, idempotency='UNKNOWN'), {3}),
    'blocked too long after a client has left': (Story().request(9.9, 10.0, 'left').blocked(13.5)
                                                 .executed(1, 20.0, 20.1).new(19.9, 20.2, 1).finally_replayed(), {3}),
    'blocked too long after an outage': (Story().store_down(10.0, 11.0).fault('stalled', 9.9, 12.0).blocked(17.0)
                                         .executed(1, 20.0, 20.1).new(19.9, 20.2, 1).finally_replayed(), {3}),

    'executed after it was delivered': (plain().killed(10.25).executed(2, 14.0, 14.1, worker=11).finally_replayed(), {4}),
    'executed after it was logged': (Story().executed(1, 10.0, 10.2).request(9.9, 10.1, 'left').logged(1, 10.3).killed(12.0)
                                     .executed(2, 20.0, 20.1, worker=11).finally_replayed(), {1, 4}),
    'blocked after it was delivered': (plain().blocked(10.5).finally_replayed(), {4}),
    'another response after a restart of Redis': (plain().fault('killed', 11.0, 12.0).executed(2, 14.0, 14.1)
                                                .new(13.9, 14.2, 2).finally_replayed(2), {2, 4}),
    'executed after it was delivered as not to be kept': (
        Story().executed(1, 10.0, 10.2, kind='not_kept').new(9.9, 10.3, 1).killed(10.25)
        .executed(2, 14.0, 14.1, worker=11, kind='not_kept').not_kept(90.0, final=True), {4}),
    'recorded as not kept after it was kept': (plain().not_kept(20.0).finally_replayed(), {4, 5}),

    'an internal error': (plain().got(20.0, 20.1, 500, '').finally_replayed(), {4, 5}),
    'refused while the store is there': (plain().store_down(20.0).finally_replayed(), {5}),
    'refused long after it is back': (plain().fault('killed', 16.0, 17.0).store_down(20.0).finally_replayed(), {5}),
    'refused because scripts were forgotten': (plain().fault('scripts_flushed', 20.0).store_down(20.1).finally_replayed(), {5}),
    'STORE_ERROR while the store is there': (Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'STORE_ERROR', 1)
                                             .finally_replayed(), {5}),
    'a bad gateway and STORE_ERROR while the store is there': (
        twice(kind='broken', second=13.0).got(9.9, 10.3, 502, 'STORE_ERROR'), {5}),
    'a 502 without a fault': (Story().got(5.0, 5.1, 502, 'NEW').executed(1, 10.0, 10.2).new(9.9, 10.3, 1)
                                   .finally_replayed(), {5}),
    'not kept without a reason': (Story().not_kept(5.0).executed(1, 10.0, 10.2).new(9.9, 10.3, 1).finally_replayed(), {5}),
    'a status that is out of place': (Story().executed(1, 10.0, 10.2).got(9.9, 10.3, 201, 'UNSCOPED', 1)
                                      .finally_replayed(), {5}),
    'a worker that died by itself': (plain().finally_replayed().alert('1#1: worker process 77 exited on signal 11'), {5}),
    'a worker that was aborted': (plain().finally_replayed().killed(11.0, worker=77)
                                  .alert('1#1: worker process 77 exited on signal 6'), {5}),
    'a socket left open': (plain().finally_replayed().alert('7#7: open socket #3 left in connection 4'), {5}),

    'never asked for in the end': (plain(), {6}),
    'lost in the end': (plain().request(90.0, 95.0, 'lost', final=True), {6}),
    'blocked in the end': (Story().executed(1, 85.0, kind='broken').request(84.9, 85.0, 'left')
                           .got(90.0, 90.1, 409, 'UNKNOWN', code='outcome_unknown', final=True), {6}),
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
