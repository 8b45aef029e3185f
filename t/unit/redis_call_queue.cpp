// Calls that wait for a server.

#include "cmocka.h"

#include <vector>

#include "redis/protocol/call_queue.h"

using namespace idempotency;

namespace {

struct TestCall : Call {
    TestCall()
    {
        ended = [](Call &call) {
            auto &self = static_cast<TestCall &>(call);

            assert_true(self.reply.verdict == Verdict::unavailable);
            self.ends++;

            if (self.waiting != nullptr) {
                assert_true(self.waiting->push(self, self.again));
            }
        };
    }

    int ends = 0;
    RedisCallQueue *waiting = nullptr;  // where it waits once more
    Millis again = 0;
};

UNIT_TEST(calls_are_taken_in_order)
{
    RedisCallQueue waiting;
    TestCall calls[3];
    Millis deadline = 0;

    assert_true(waiting.empty());
    assert_null(waiting.pop(deadline));
    assert_true(waiting.next_deadline() == kNever);

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            assert_true(waiting.push(calls[i], Millis(10 - i)));
        }

        assert_int_equal(waiting.next_deadline(), 8);

        for (int i = 0; i < 3; i++) {
            assert_ptr_equal(waiting.pop(deadline), &calls[i]);
            assert_int_equal(deadline, 10 - i);
        }

        assert_true(waiting.empty());
    }
}

UNIT_TEST(calls_end_at_their_deadline)
{
    RedisCallQueue waiting;
    TestCall calls[4];
    const Millis deadlines[] = {10, 30, 20, 30};
    Millis deadline = 0;

    for (int i = 0; i < 4; i++) {
        assert_true(waiting.push(calls[i], deadlines[i]));
    }

    waiting.expire(9);
    assert_int_equal(calls[0].ends, 0);
    waiting.expire(20);
    assert_int_equal(calls[0].ends, 1);
    assert_int_equal(calls[1].ends, 0);
    assert_int_equal(calls[2].ends, 1);
    assert_int_equal(waiting.next_deadline(), 30);
    assert_ptr_equal(waiting.pop(deadline), &calls[1]);
    assert_true(waiting.push(calls[0], 40));
    waiting.end_all();
    assert_int_equal(calls[0].ends, 2);
    assert_int_equal(calls[1].ends, 0);
    assert_int_equal(calls[3].ends, 1);
    assert_true(waiting.empty());
}

UNIT_TEST(an_ended_call_may_wait_again)
{
    RedisCallQueue waiting;
    TestCall calls[2];

    for (TestCall &call : calls) {
        call.waiting = &waiting;
        call.again = 20;
        assert_true(waiting.push(call, 10));
    }

    waiting.expire(10);

    for (TestCall &call : calls) {
        assert_int_equal(call.ends, 1);
        call.waiting = nullptr;
    }

    assert_int_equal(waiting.next_deadline(), 20);
    waiting.expire(20);
    assert_int_equal(calls[1].ends, 2);
}

UNIT_TEST(calls_end_when_the_queue_is_destroyed)
{
    TestCall call;

    {
        RedisCallQueue waiting;

        assert_true(waiting.push(call, 10));
    }

    assert_int_equal(call.ends, 1);
}

}  // namespace
