// Calls of the pipeline to Redis that another node of a cluster is to have.

#include "pipeline_harness.h"

#include <cstring>
#include <string>

using namespace idempotency;

namespace {

UNIT_TEST(a_redirected_call_is_given_to_the_owner)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        release(Call::Kind::release, 'c'), renew(Call::Kind::renew, 'd');

    redis.greet();
    claim.set_value("claim");
    settle.set_value("result");
    redis.send(claim);
    redis.send(settle);
    redis.send(release);
    redis.send(renew);

    redis.reply("-MOVED 3999 127.0.0.1:6381\r\n");
    assert_ptr_equal(redis.redirected_call, &claim);
    redis.reply("-ASK 16383 ::1:6382\r\n");
    assert_ptr_equal(redis.redirected_call, &settle);
    redis.reply("-MOVED 5 :6383\r\n");
    assert_ptr_equal(redis.redirected_call, &release);
    redis.reply("-MOVED 6 host:6384\r\n");
    assert_ptr_equal(redis.redirected_call, &renew);

    assert_string_equal(redis.redirects.c_str(),
                        "moved 3999 to 127.0.0.1 6381 by 1100;ask 16383 to ::1 6382 by 1100;"
                        "moved 5 to  6383 by 1100;moved 6 to host 6384 by 1100;");
    assert_string_equal(redis.errors.c_str(), "");
    assert_true(redis.pipeline.idle());

    redis.pipeline.close();
    assert_int_equal(claim.ends + settle.ends + release.ends + renew.ends, 0);
}

UNIT_TEST(a_redirection_without_a_target_is_an_error)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), other(Call::Kind::claim, 'b');

    redis.greet();
    redis.send(claim);
    redis.send(other);
    redis.reply("-MOVED 16384 host:1\r\n-MOVED 1 " + std::string(300, 'h') + ":1\r\n");
    assert_true(claim.ended_unavailable(true));
    assert_true(other.ended_as(Verdict::unavailable));
    assert_string_equal(redis.errors.c_str(), "claim MOVED key;claim MOVED key;");
    assert_string_equal(redis.redirects.c_str(), "");
    assert_null(redis.pipeline.fault());
}

// It was not carried out, and nobody waits for it.
UNIT_TEST(a_late_redirection_is_dropped)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), renew(Call::Kind::renew, 'b');

    redis.greet();
    redis.send(renew);
    redis.send(claim);
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(claim.ended_unavailable(true));
    assert_true(renew.ended_unavailable(true));
    redis.reply("-MOVED 1 host:7\r\n-MOVED 1 host:7\r\n");
    assert_string_equal(redis.redirects.c_str(), "");
    assert_string_equal(redis.errors.c_str(), "");
    assert_true(redis.pipeline.idle() && !redis.pipeline.stalled());
}

UNIT_TEST(asking_comes_before_each_command)
{
    const std::string asking = "*1\r\n$6\r\nASKING\r\n";
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), waits(Call::Kind::release, 'b'),
        refused(Call::Kind::release, 'c');

    assert_false(redis.pipeline.start(waits, redis.now + kTimeout, true));
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.reply(kPong);
    assert_int_equal(redis.written().rfind(asking + "*5\r\n$7\r\nEVALSHA\r\n", 0), 0);
    redis.reply("+OK\r\n");
    assert_int_equal(waits.ends, 0);
    redis.reply(":1\r\n");
    assert_true(waits.ended_as(Verdict::done));

    assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));
    assert_int_equal(redis.written().rfind(asking + "*8\r\n$7\r\nEVALSHA\r\n", 0), 0);
    redis.reply("+OK\r\n");
    redis.reply(kNoScript);
    assert_int_equal(redis.written().rfind(asking + "*8\r\n$4\r\nEVAL\r\n", 0), 0);
    redis.reply("+OK\r\n:7\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_string_equal(redis.errors.c_str(), "");

    assert_false(redis.pipeline.start(refused, redis.now + kTimeout, true));
    redis.written();
    redis.reply("-NOPERM no permissions\r\n-MOVED 1 host:7\r\n");
    assert_ptr_equal(redis.redirected_call, &refused);
    assert_string_equal(redis.errors.c_str(), "ASKING NOPERM;");
    assert_true(redis.pipeline.idle());
    assert_null(redis.pipeline.fault());
}

UNIT_TEST(the_reply_to_asking_is_a_status_after_it_was_sent)
{
    for (bool early : {false, true}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a');

        redis.greet();
        assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));

        if (!early) {
            redis.written();
        }

        redis.reply(early ? "+OK\r\n" : ":1\r\n");
        assert_non_null(redis.pipeline.fault());
        assert_int_equal(claim.ends, 0);
        redis.pipeline.close();
        assert_true(claim.ended_unavailable(true));
    }
}

}  // namespace
