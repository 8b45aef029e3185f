// What the pipeline to Redis holds until replicas have it.

#include "pipeline_harness.h"

#include <cstring>
#include <string>

using namespace idempotency;

namespace {

RedisPipelineOptions options_with_replicas()
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.replicas = 2;
    options.replica_wait = 50;
    return options;
}

const std::string kWait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$2\r\n50\r\n";

// A connection on which there have been replicas enough.
void greet_with_replicas(Harness &redis)
{
    TestCall claim(Call::Kind::claim, 'z');

    redis.greet();

    // as long as that is not known
    assert_int_equal(count_of(redis.send(claim), "WAIT"), 0);
    redis.reply(":1\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.reply(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

UNIT_TEST(changes_of_a_key_wait_for_the_replicas)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        found(Call::Kind::claim, 'c'), lost(Call::Kind::settle, 'd'),
        release(Call::Kind::release, 'e');
    TestCall renew(Call::Kind::renew, 'f');

    greet_with_replicas(redis);

    // these do not wait for the replicas
    redis.start(renew);
    redis.start(release);
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.reply(":1\r\n:1\r\n");
    assert_true(renew.ended_as(Verdict::done));
    assert_true(release.ended_as(Verdict::done));

    // one for all
    for (TestCall *call : {&claim, &settle, &found, &lost}) {
        assert_false(redis.start(*call));
    }

    std::string bytes = redis.written();

    assert_true(ends_with(bytes, kWait));
    assert_int_equal(count_of(bytes, "WAIT"), 1);

    redis.reply(":7\r\n:1\r\n" + found_reply("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_int_equal(claim.ends + settle.ends, 0);
    assert_false(redis.pipeline.idle());

    redis.reply(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(claim.reply.token == 7);
    assert_true(settle.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "");
}

// With too few replicas each one blocks the connection: they must not add up.
UNIT_TEST(one_wait_is_in_flight_at_a_time)
{
    Harness redis(options_with_replicas());
    TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::claim, 'b'),
        third(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    assert_int_equal(count_of(redis.send(first), "WAIT"), 1);
    assert_int_equal(count_of(redis.send(second), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(third), "WAIT"), 0);

    redis.reply(":5\r\n:3\r\n:6\r\n");
    assert_true(first.ended_as(Verdict::claimed));
    assert_int_equal(second.ends, 0);
    assert_true(redis.written() == kWait);

    redis.reply(":1\r\n");
    assert_int_equal(third.ends, 0);
    redis.reply(":2\r\n");
    assert_true(second.ended_as(Verdict::claimed));
    assert_true(second.reply.token == 6);
    assert_true(third.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

// The caller releases such a claim: its call says that it was sent.
UNIT_TEST(a_claim_that_too_few_replicas_have_is_unavailable)
{
    const struct {
        const char *answer;
        const char *error;
    } cases[] = {
        {":1\r\n", "WAIT NOREPLICAS;"},
        {":-1\r\n", "WAIT NOREPLICAS;"},
        {"-NOPERM this user has no permissions to run the 'wait' command\r\n", "WAIT NOPERM;"},
        {"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
         "WAIT UNBLOCKED;"},
    };

    for (const auto &each : cases) {
        Harness redis(options_with_replicas());
        TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b');

        greet_with_replicas(redis);
        redis.start(claim);
        redis.start(settle);
        redis.written();
        redis.reply(":258\r\n:1\r\n");
        redis.reply(each.answer);
        assert_true(claim.ended_unavailable(true));
        assert_true(claim.reply.token == 0);
        assert_true(settle.ended_unavailable(true));
        assert_string_equal(redis.errors.c_str(), each.error);
        assert_true(redis.written().empty());
        assert_true(redis.pipeline.idle());
        assert_null(redis.pipeline.fault());
    }
}

UNIT_TEST(too_few_replicas_are_not_reported_where_nothing_is_held)
{
    Harness redis(options_with_replicas());
    TestCall found(Call::Kind::claim, 'a'), claim(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.start(found);
    redis.start(claim);
    redis.written();
    redis.reply(found_reply("value", 9) + kNoScript + ":0\r\n");
    assert_string_equal(redis.errors.c_str(), "");

    // the script was sent again: so is the WAIT, when there is something to wait for
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.reply(":7\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.reply(":4\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

UNIT_TEST(a_held_call_ends_at_its_deadline)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        later(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.written();
    redis.reply(":258\r\n:1\r\n");

    // a WAIT may take `replica_wait` until it is progress that there is none
    Millis end = redis.now + kTimeout + 50;

    assert_true(redis.pipeline.next_deadline() == end);
    redis.pipeline.expire(end - 1);
    assert_int_equal(claim.ends, 0);

    redis.now = end - 1;
    redis.start(later);
    redis.written();
    redis.pipeline.expire(end);
    assert_true(claim.ended_unavailable(true));
    assert_true(settle.ended_unavailable(true));
    assert_int_equal(later.ends, 0);
    assert_null(redis.pipeline.fault());
    assert_true(redis.written().empty());

    // now they have it, which is too late for the two
    redis.reply(":2\r\n:1\r\n");
    redis.written();
    redis.reply(":2\r\n");
    assert_true(later.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_int_equal(claim.ends, 1);
}

// Whether the replicas have it can't be found out any more.
UNIT_TEST(what_is_held_when_the_connection_is_closed_may_be_done)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        next(Call::Kind::claim, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.written();
    redis.reply(":258\r\n:1\r\n");
    redis.pipeline.close();
    assert_true(claim.ended_unavailable(true));
    assert_true(settle.ended_unavailable(true));
    assert_true(claim.reply.token == 0);
    assert_true(redis.pipeline.idle());

    // the new connection has a WAIT of its own
    redis.greet();
    redis.send(next);
    redis.reply(":9\r\n");
    assert_true(redis.written() == kWait);
    redis.reply(":2\r\n");
    assert_true(next.ended_as(Verdict::claimed));
}

UNIT_TEST(a_wait_without_a_reply_is_a_stall)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), refused(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":258\r\n");
    redis.now = 1150;
    redis.pipeline.expire(redis.now);
    assert_true(claim.ended_unavailable(true));
    assert_true(redis.pipeline.stalled());
    assert_true(redis.start(refused));
    assert_false(refused.reply.sent);
    assert_true(redis.pipeline.next_deadline() == 1450);
    redis.pipeline.expire(1450);
    assert_non_null(redis.pipeline.fault());
}

UNIT_TEST(the_reply_to_a_wait_is_a_number)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":258\r\n+OK\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_int_equal(claim.ends, 0);
    redis.pipeline.close();
    assert_true(claim.ended_unavailable(true));
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(a_call_may_start_another_one_when_the_replicas_have_it)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'a');

    claim.then = [&](TestCall &ended) {
        assert_true(ended.reply.token == 9);
        assert_false(redis.start(settle));
    };

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":9\r\n:2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(ends_with(redis.written(), kWait));
    redis.reply(":1\r\n:2\r\n");
    assert_true(settle.ended_as(Verdict::done));
}

// With too few replicas a WAIT takes all of its time: who changes nothing must not stand behind one.
UNIT_TEST(a_found_value_does_not_wait_for_replicas)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), found(Call::Kind::claim, 'b'),
        lost(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":7\r\n:1\r\n");
    assert_true(claim.ended_unavailable(true));
    assert_true(redis.written().empty());

    assert_int_equal(count_of(redis.send(found), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(lost), "WAIT"), 0);
    redis.reply(found_reply("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_true(redis.written().empty());
}

}  // namespace
