// How long to wait before a query is sent again.

#include "cmocka.h"

#include <random>

#include "redis/protocol/backoff.h"

using namespace idempotency;

namespace {

std::uint32_t any()
{
    static std::mt19937 engine(1);

    return static_cast<std::uint32_t>(engine()) >> 1;
}

UNIT_TEST(the_first_retry_is_almost_immediate)
{
    for (int i = 0; i < 1000; i++) {
        RedisBackoff backoff;

        assert_true(backoff.retry_delay(5, any()) <= 10);
        backoff.attempted(10);
        assert_in_range(backoff.retry_delay(10, any()), 50, 100);
        // the time since the attempt counts
        assert_in_range(backoff.retry_delay(50, any()), 10, 60);
        assert_int_equal(backoff.retry_delay(150, any()), 0);
        // after some seconds without an attempt the delays start over
        assert_true(backoff.retry_delay(3010, any()) <= 10);
    }
}

// Ten seconds in which there is always a reason to send the query.
UNIT_TEST(many_reasons_make_few_queries)
{
    for (int run = 0; run < 100; run++) {
        RedisBackoff backoff;
        Millis now = 100000;
        int queries = 0;

        while (now < 110000) {
            now += backoff.retry_delay(now, any());
            backoff.attempted(now);
            queries++;
        }

        assert_in_range(queries, 10, 25);
    }
}

UNIT_TEST(delays_grow_up_to_a_limit)
{
    RedisBackoff backoff;
    const Millis most[] = {100, 200, 400, 800, 1000, 1000, 1000};
    Millis now = 1000;

    for (Millis longest : most) {
        backoff.attempted(now);

        Millis delay = backoff.retry_delay(now, any());

        assert_in_range(delay, longest / 2, longest);
        now += delay;
    }

    // after some seconds without an attempt the delays start over
    now += 3000;
    backoff.attempted(now);
    assert_in_range(backoff.retry_delay(now, any()), 50, 100);
}

UNIT_TEST(without_a_reason_queries_are_rare)
{
    for (int i = 0; i < 1000; i++) {
        assert_in_range(RedisBackoff::refresh_delay(any()), 15000, 30000);
    }
}

}  // namespace
