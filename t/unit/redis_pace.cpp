// When a request to a server is repeated.

#include "cmocka.h"

#include <random>

#include "store/redis_pace.h"

using namespace idempotency;

namespace {

std::uint32_t any()
{
    static std::mt19937 engine(1);

    return static_cast<std::uint32_t>(engine()) >> 1;
}

UNIT_TEST(the_first_time_is_at_once)
{
    for (int i = 0; i < 1000; i++) {
        RedisPace pace;

        assert_true(pace.hurry(5, any()) <= 10);
        pace.asked(10);
        assert_in_range(pace.hurry(10, any()), 50, 100);
        // the time that has passed counts
        assert_in_range(pace.hurry(50, any()), 10, 60);
        assert_int_equal(pace.hurry(150, any()), 0);
        // after a calm period the first request is made at once again
        assert_true(pace.hurry(3010, any()) <= 10);
    }
}

// Ten seconds with a reason at each time.
UNIT_TEST(many_reasons_make_few_requests)
{
    for (int run = 0; run < 100; run++) {
        RedisPace pace;
        Millis now = 100000;
        int questions = 0;

        while (now < 110000) {
            now += pace.hurry(now, any());
            pace.asked(now);
            questions++;
        }

        assert_in_range(questions, 10, 25);
    }
}

UNIT_TEST(pauses_grow_and_end)
{
    RedisPace pace;
    const Millis most[] = {100, 200, 400, 800, 1000, 1000, 1000};
    Millis now = 1000;

    for (Millis longest : most) {
        pace.asked(now);

        Millis pause = pace.hurry(now, any());

        assert_in_range(pause, longest / 2, longest);
        now += pause;
    }

    // the pauses start again after a calm period
    now += 3000;
    pace.asked(now);
    assert_in_range(pace.hurry(now, any()), 50, 100);
}

UNIT_TEST(without_a_reason_requests_are_rare)
{
    for (int i = 0; i < 1000; i++) {
        assert_in_range(RedisPace::term(any()), 15000, 30000);
    }
}

}  // namespace
