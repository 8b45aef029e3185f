// Large values that the pipeline to Redis tells of and fetches, and how many calls are under way at a time.

#include "pipeline_harness.h"

#include <cstring>
#include <string>

using namespace idempotency;

namespace {

UNIT_TEST(a_large_value_is_reported_and_not_sent)
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.inline_limit = 4711;

    Harness redis(options);
    TestCall claim(Call::Kind::claim, 'a'), late(Call::Kind::claim, 'b'),
        settle(Call::Kind::settle, 'c');

    redis.greet();
    assert_true(redis.send(claim).find("$4\r\n4711\r\n") != std::string::npos);
    redis.reply("*2\r\n$5\r\n60000\r\n:-4712\r\n");
    assert_ptr_equal(redis.rerouted_call, &claim);
    assert_int_equal(claim.found.size(), 4712);
    assert_true(redis.rerouted_deadline == redis.now + kTimeout);
    assert_int_equal(claim.large, 4712);
    assert_int_equal(claim.ends, 0);
    assert_true(redis.pipeline.idle());

    redis.rerouted_call = nullptr;
    redis.send(late);
    redis.send(settle);
    redis.now += 1;
    assert_false(redis.pipeline.stalled());
    redis.pipeline.expire(redis.now + kTimeout - 1);
    redis.reply("*2\r\n$5\r\n60000\r\n:-5000\r\n:0\r\n");
    assert_null(redis.rerouted_call);
    assert_true(late.ended_unavailable(true));
    assert_null(redis.pipeline.fault());

    // who has no room for it does not ask for it
    TestCall refuses(Call::Kind::claim, 'd'), wrong(Call::Kind::claim, 'e');

    refuses.no_memory = true;
    redis.send(refuses);
    redis.reply("*2\r\n$5\r\n60000\r\n:-1000000000000\r\n");
    assert_null(redis.rerouted_call);
    assert_true(refuses.ended_unavailable(false));
    assert_null(redis.pipeline.fault());

    redis.send(wrong);
    redis.reply("*2\r\n$5\r\n60000\r\n:-4711\r\n");
    assert_non_null(redis.pipeline.fault());
}

std::string value_of(std::size_t size) { return std::string(size - 1, 'v') + "!"; }

std::string bulk(const std::string &value)
{
    return "$" + std::to_string(value.size()) + "\r\n" + value + "\r\n";
}

// A claim that has been told of a large value.
void tell_of(TestCall &claim, Harness &redis, std::size_t size)
{
    claim.large = size;
    claim.large_until = redis.now + 60000;
}

UNIT_TEST(a_large_value_is_fetched_by_a_get)
{
    for (std::size_t size : {std::size_t(5000), std::size_t(500000)}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b');
        std::string value = value_of(size);

        redis.greet();
        tell_of(claim, redis, size);
        assert_true(redis.send(claim).find("*2\r\n$3\r\nGET\r\n") == 0);
        redis.send(settle);
        redis.now += 7;
        redis.reply(bulk(value) + ":1\r\n");
        assert_true(claim.ended_as(Verdict::found));
        assert_true(claim.reply.value == value);
        assert_int_equal(claim.reply.remaining, 60000 - 7);
        assert_true(settle.ended_as(Verdict::done));
        assert_null(redis.rerouted_call);
        assert_null(redis.pipeline.fault());

        // also in pieces
        TestCall slow(Call::Kind::claim, 'c');

        tell_of(slow, redis, size);
        redis.send(slow);
        for (char byte : bulk(value)) {
            redis.reply({&byte, 1});
        }
        assert_true(slow.ended_as(Verdict::found));
        assert_true(slow.reply.value == value);
    }
}

UNIT_TEST(a_value_of_another_size_is_claimed_again)
{
    for (std::string answer : {std::string("$-1\r\n"), bulk("small"), bulk(""),
                               bulk(value_of(4999)), bulk(value_of(300000))})
    {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::settle, 'b');

        redis.greet();
        tell_of(claim, redis, 5000);
        redis.send(claim);
        redis.send(next);
        redis.reply(answer + ":1\r\n");
        assert_ptr_equal(redis.rerouted_call, &claim);
        assert_int_equal(claim.large, 0);
        assert_int_equal(claim.ends, 0);
        assert_true(next.ended_as(Verdict::done));
        assert_null(redis.pipeline.fault());
        assert_true(redis.pipeline.idle());
    }
}

// A fetch changes nothing: no claim is to be released after it.
UNIT_TEST(other_replies_to_a_fetch)
{
    Harness redis;
    TestCall late(Call::Kind::claim, 'a'), full(Call::Kind::claim, 'b'),
        error(Call::Kind::claim, 'c'), wrong(Call::Kind::claim, 'd');

    redis.greet();
    for (TestCall *call : {&late, &full, &error, &wrong}) {
        tell_of(*call, redis, 5000);
    }

    redis.send(late);
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(late.ended_unavailable(false));
    redis.reply(bulk(value_of(5000)));
    assert_int_equal(late.ends, 1);
    assert_null(redis.rerouted_call);

    full.no_memory = true;
    redis.send(full);
    redis.reply(bulk(value_of(5000)));
    assert_true(full.ended_unavailable(false));

    redis.send(error);
    redis.reply("-WRONGTYPE Operation against a key\r\n");
    assert_true(error.ended_unavailable(false));
    assert_null(redis.rerouted_call);
    assert_null(redis.pipeline.fault());

    redis.send(wrong);
    redis.reply(":1\r\n");
    assert_true(wrong.ended_unavailable(false));
    assert_non_null(redis.pipeline.fault());

    TestCall lost(Call::Kind::claim, 'e');

    redis.pipeline.close();
    redis.greet();
    tell_of(lost, redis, 5000);
    redis.send(lost);
    redis.pipeline.close();
    assert_true(lost.ended_unavailable(false));
}

// What is under way is bounded, so that Redis need not keep many large answers.
UNIT_TEST(the_number_in_flight_is_limited)
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.max_in_flight = 2;

    Harness redis(options);
    TestCall one(Call::Kind::claim, 'a'), two(Call::Kind::settle, 'b'),
        three(Call::Kind::claim, 'c'), four(Call::Kind::release, 'd'), five(Call::Kind::claim, 'e'),
        six(Call::Kind::claim, 'f');

    redis.greet();

    for (TestCall *call : {&one, &two, &three, &four, &five}) {
        assert_false(redis.start(*call));
    }

    assert_int_equal(count_of(redis.written(), "EVALSHA"), 2);

    // a script that is to be sent along takes the place that it had
    redis.reply(kNoScript);
    assert_int_equal(count_of(redis.written(), "$4\r\nEVAL\r\n"), 1);

    // "three", and "four", which comes behind it but needs no room
    redis.reply(":0\r\n");
    assert_true(two.ended_as(Verdict::lost));
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 2);

    redis.now += 10;
    assert_false(redis.start(six));
    assert_true(redis.written().empty());

    // one that waits ends at its deadline, like any; one that is late is still under way
    redis.pipeline.expire(1100);
    assert_true(one.ended_unavailable(true));
    assert_true(three.ended_unavailable(true));
    assert_true(five.ended_unavailable(false));
    assert_int_equal(six.ends, 0);

    redis.reply(":7\r\n");

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, "EVALSHA"), 1);

    redis.reply(":0\r\n");
    assert_non_null(redis.pipeline.fault());
    redis.pipeline.close();
    assert_true(six.ended_as(Verdict::unavailable));
}

UNIT_TEST(calls_over_the_limit_go_to_the_next_connection)
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.max_in_flight = 1;

    Harness redis(options);
    TestCall one(Call::Kind::claim, 'a'), two(Call::Kind::claim, 'b'),
        three(Call::Kind::claim, 'c');

    redis.greet();
    redis.send(one);
    assert_true(redis.send(two).empty());
    redis.pipeline.close();
    assert_true(one.ended_as(Verdict::unavailable));
    assert_int_equal(two.ends, 0);

    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.start(three);
    redis.reply(kPong);
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.reply(":5\r\n");
    assert_true(two.ended_as(Verdict::claimed));
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.reply(":6\r\n");
    assert_true(three.ended_as(Verdict::claimed));
}

}  // namespace
