// What the pipeline for large values does with its commands when Redis closes the connection, and when Redis is slow.

#include "pipeline_harness.h"

#include <string>

using namespace idempotency;

namespace {

RedisPipelineOptions bulk_options()
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.max_in_flight = 4;
    options.is_bulk = true;
    return options;
}

// Redis closes the connection, and the next one is greeted.
bool lose(Harness &redis)
{
    bool worth_it = redis.pipeline.take_back(redis.now);

    redis.pipeline.close();
    redis.greet();
    return worth_it;
}

void fetch(TestCall &claim, Millis now, std::size_t size)
{
    claim.large = size;
    claim.large_until = now + 60000;
}

std::string bulk(const std::string &value)
{
    return "$" + std::to_string(value.size()) + "\r\n" + value + "\r\n";
}

UNIT_TEST(what_was_in_flight_is_sent_again_one_by_one)
{
    Harness redis(bulk_options());
    TestCall a(Call::Kind::settle, 'a'), b(Call::Kind::claim, 'b'), c(Call::Kind::settle, 'c');

    redis.greet();
    fetch(b, redis.now, 1000);
    redis.send(a);
    redis.send(b);
    redis.send(c);
    assert_true(lose(redis));
    assert_int_equal(a.ends + b.ends + c.ends, 0);

    // only the first one, until it has a reply
    std::string sent = redis.written();

    assert_int_equal(count_of(sent, claim_argument('a')), 1);
    assert_int_equal(count_of(sent, claim_argument('c')), 0);
    assert_int_equal(count_of(sent, "GET"), 0);
    redis.reply(":1\r\n");
    assert_true(a.ended_as(Verdict::done));

    sent = redis.written();
    assert_int_equal(count_of(sent, "GET"), 1);
    assert_int_equal(count_of(sent, claim_argument('c')), 1);
    redis.reply(bulk(std::string(1000, 'v')) + ":1\r\n");
    assert_true(b.ended_as(Verdict::found));
    assert_true(c.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(a_value_that_breaks_each_connection_is_refused)
{
    Harness redis(bulk_options());
    TestCall bad(Call::Kind::settle, 'a'), good(Call::Kind::settle, 'b');

    redis.greet();
    redis.send(bad);
    redis.send(good);
    assert_true(lose(redis));
    assert_int_equal(count_of(redis.written(), claim_argument('a')), 1);

    // it was alone: the other one is first now
    assert_true(lose(redis));
    assert_int_equal(bad.ends, 0);
    assert_int_equal(count_of(redis.written(), claim_argument('b')), 1);
    redis.reply(":1\r\n");
    assert_true(good.ended_as(Verdict::done));

    for (int breaks = 2; breaks <= 3; breaks++) {
        assert_int_equal(bad.ends, 0);
        assert_int_equal(count_of(redis.written(), claim_argument('a')), 1);
        assert_true(lose(redis));
    }

    assert_true(bad.ended_as(Verdict::refused));
    assert_true(redis.pipeline.idle());

    // nothing is in flight: no command is the reason
    assert_false(lose(redis));
}

UNIT_TEST(a_fetch_that_breaks_the_connection_alone_ends)
{
    Harness redis(bulk_options());
    TestCall claim(Call::Kind::claim, 'a'), equal(Call::Kind::claim, 'a');

    redis.greet();
    fetch(claim, redis.now, 1000);
    redis.send(claim);
    assert_true(lose(redis));
    assert_true(claim.ended_unavailable(false));
}

UNIT_TEST(what_was_sent_and_not_sent_again_may_be_done)
{
    Harness redis(bulk_options());
    TestCall a(Call::Kind::settle, 'a'), b(Call::Kind::settle, 'b');

    redis.greet();
    redis.send(a);
    assert_true(redis.pipeline.take_back(redis.now));
    redis.pipeline.close();
    assert_false(redis.start(b));
    redis.pipeline.end_waiting();
    assert_true(a.ended_unavailable(true));
    assert_true(b.ended_unavailable(false));
}

UNIT_TEST(calls_for_one_value_that_waits_share_a_get)
{
    RedisPipelineOptions options = bulk_options();

    options.max_in_flight = 1;

    Harness redis(options);
    TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::claim, 'a'),
        third(Call::Kind::claim, 'a'), other(Call::Kind::claim, 'b'), size(Call::Kind::claim, 'a'),
        poor(Call::Kind::claim, 'a');
    std::string value(999, 'v');

    redis.greet();

    for (TestCall *call : {&first, &second, &third, &other, &size, &poor}) {
        fetch(*call, redis.now, call == &size ? 500 : value.size());
        assert_false(redis.start(*call));
    }

    third.large_until += 7;
    poor.no_memory = true;
    assert_int_equal(count_of(redis.written(), "GET"), 1);

    // the first one was in flight: the others may have found a newer value
    redis.reply(bulk(value));
    assert_true(first.ended_as(Verdict::found));
    assert_int_equal(second.ends, 0);
    assert_int_equal(count_of(redis.written(), "GET"), 1);
    redis.reply(bulk(value));

    for (TestCall *call : {&second, &third}) {
        assert_true(call->ended_as(Verdict::found));
        assert_true(call->reply.value == value);
        assert_ptr_equal(call->reply.value.data(), call->found.data());
    }

    assert_int_equal(third.reply.remaining - second.reply.remaining, 7);
    assert_true(poor.ended_unavailable(false));
    assert_int_equal(other.ends + size.ends, 0);
    redis.written();
    redis.reply(bulk(value));
    assert_true(other.ended_as(Verdict::found));
    redis.written();
    redis.reply(bulk(std::string(500, 'v')));
    assert_true(size.ended_as(Verdict::found));
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(calls_that_share_a_get_end_together)
{
    for (const char *way : {"another value", "moved", "error", "expired", "closed"}) {
        RedisPipelineOptions options = bulk_options();

        options.max_in_flight = 1;

        Harness redis(options);
        TestCall first(Call::Kind::claim, 'x'), second(Call::Kind::claim, 'a'),
            third(Call::Kind::claim, 'a');

        redis.greet();

        for (TestCall *call : {&first, &second, &third}) {
            fetch(*call, redis.now, 1000);
            assert_false(redis.start(*call));
        }

        redis.written();
        redis.reply(bulk(std::string(1000, 'v')));
        redis.written();

        if (way == std::string("another value")) {
            redis.reply("$-1\r\n");
            assert_ptr_equal(redis.rerouted_call, &third);
            assert_int_equal(second.large + third.large, 0);
        } else if (way == std::string("moved")) {
            redis.reply("-MOVED 7 10.0.0.1:6379\r\n");
            assert_ptr_equal(redis.redirected_call, &third);
            assert_int_equal(count_of(redis.redirects, "moved 7"), 2);
        } else {
            if (way == std::string("error")) {
                redis.reply("-LOADING x\r\n");
            } else if (way == std::string("expired")) {
                redis.pipeline.expire(redis.now + 2 * kTimeout);
            } else {
                redis.pipeline.close();
            }
            assert_true(second.ended_unavailable(false));
            assert_true(third.ended_unavailable(false));
        }
    }
}

UNIT_TEST(calls_are_not_late_while_replies_make_progress)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');
    std::string reply = found_reply(std::string(20000, 'v'), 5);

    redis.greet();
    redis.send(claim);

    for (std::size_t at = 0; at + 5000 < reply.size(); at += 5000) {
        redis.now += kTimeout - 1;
        redis.pipeline.expire(redis.now);
        assert_int_equal(claim.ends, 0);
        redis.reply(reply.substr(at, 5000));
    }

    // until there is no more
    assert_true(redis.pipeline.next_deadline() == redis.now + kTimeout);
    redis.pipeline.expire(redis.now + kTimeout - 1);
    assert_int_equal(claim.ends, 0);
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(claim.ended_unavailable(true));
    assert_true(redis.pipeline.stalled());
}

UNIT_TEST(an_idle_connection_is_checked_with_a_ping)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    assert_false(redis.pipeline.is_proven());
    redis.pipeline.check(redis.now);
    assert_true(redis.written() == "*1\r\n$4\r\nPING\r\n");
    assert_false(redis.pipeline.idle());
    redis.reply(kPong);
    assert_true(redis.pipeline.idle());
    assert_true(redis.pipeline.is_proven());
    assert_int_equal(redis.greetings, 1);

    redis.pipeline.check(redis.now);
    redis.written();
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(redis.pipeline.stalled());
    assert_true(redis.start(claim));
    redis.reply(kPong);
    assert_false(redis.pipeline.stalled());
    assert_null(redis.pipeline.fault());
}

}  // namespace
