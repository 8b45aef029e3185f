// The pipeline to Redis: greetings, calls and their answers, what is late, what is garbage.

#include "pipeline_harness.h"

#include <cstring>
#include <string>
#include <vector>

using namespace idempotency;

namespace {

UNIT_TEST(calls_wait_for_the_greeting)
{
    Harness redis;
    TestCall call(Call::Kind::release, 'a');
    RedisLogin login;

    login.user = "app";
    login.password = "se cret";
    login.database = 12;

    assert_false(redis.start(call));
    assert_true(redis.written().empty());

    redis.pipeline.open(login, redis.now);
    assert_true(redis.written()
                == "*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$7\r\nse cret\r\n"
                   "*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n"
                   "*1\r\n$4\r\nPING\r\n");
    redis.reply("+OK\r\n+OK\r\n");
    assert_true(redis.written().empty());
    assert_int_equal(redis.greetings, 0);

    redis.reply(kPong);
    assert_int_equal(redis.greetings, 1);
    assert_true(redis.written().find("EVALSHA") != std::string::npos);

    redis.reply(":1\r\n");
    assert_true(call.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(a_refused_greeting_is_a_fault_and_sends_nothing)
{
    Harness redis;
    TestCall call(Call::Kind::release, 'a');
    RedisLogin login;

    login.password = "wrong";
    assert_false(redis.start(call));
    redis.pipeline.open(login, redis.now);
    redis.written();
    redis.reply("-WRONGPASS invalid username-password pair or user is disabled.\r\n");

    assert_non_null(redis.pipeline.fault());
    assert_string_equal(redis.errors.c_str(), "AUTH WRONGPASS;");
    assert_true(redis.written().empty());

    redis.pipeline.close();
    assert_int_equal(call.ends, 0);
    redis.pipeline.end_waiting();
    assert_true(call.ended_as(Verdict::unavailable));
}

UNIT_TEST(a_paused_connection_ends_the_calls_in_flight)
{
    Harness redis;
    TestCall sent(Call::Kind::release, 'a'), late(Call::Kind::release, 'b'),
        kept(Call::Kind::release, 'c');

    redis.greet();
    assert_true(redis.pipeline.drained());
    redis.send(sent);
    redis.send(late);
    redis.pipeline.pause();
    assert_false(redis.pipeline.start(kept, redis.now + 3 * kTimeout));
    assert_true(redis.written().empty());
    assert_false(redis.pipeline.drained());

    redis.reply(":1\r\n");
    assert_true(sent.ended_as(Verdict::done));
    assert_true(redis.written().empty());
    assert_false(redis.pipeline.drained());

    redis.now += kTimeout + 1;
    redis.pipeline.expire(redis.now);
    assert_true(late.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.drained());

    // what came later goes to the next one
    redis.pipeline.close();
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.reply(kPong);
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.reply(":1\r\n");
    assert_true(kept.ended_as(Verdict::done));
}

UNIT_TEST(the_greeting_asks_for_the_role_with_master_only)
{
    const struct {
        const char *answer;
        const char *fault;
    } cases[] = {
        {"*3\r\n$6\r\nmaster\r\n:3129659\r\n*2\r\n"
         "*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$7\r\n3129242\r\n"
         "*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9002\r\n$7\r\n3129543\r\n",
         nullptr},
        {"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", nullptr},
        {"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$9\r\nconnected\r\n:3167038\r\n",
         "it is a replica"},
        {"*2\r\n$8\r\nsentinel\r\n*1\r\n$8\r\nmymaster\r\n", "it is not a master"},
        {"*2\r\n$17\r\nmaster and so on!\r\n:1\r\n", "it is not a master"},
        {"+master\r\n", "it does not reply to the greeting as Redis does"},
        {"$6\r\nmaster\r\n", "it does not reply to the greeting as Redis does"},
        {"-NOPERM this user has no permissions to run the 'role' command\r\n",
         "it refuses the connection"},
    };

    for (const auto &each : cases) {
        Harness redis;
        RedisLogin login;

        login.master_only = true;
        redis.pipeline.open(login, redis.now);
        assert_true(redis.written() == "*1\r\n$4\r\nROLE\r\n*1\r\n$4\r\nPING\r\n");
        redis.reply(each.answer);

        if (each.fault != nullptr) {
            assert_string_equal(redis.pipeline.fault(), each.fault);
        } else {
            assert_null(redis.pipeline.fault());
        }

        redis.reply(kPong);
        assert_int_equal(redis.greetings, each.fault == nullptr);
    }
}

UNIT_TEST(an_error_is_reported_without_its_text)
{
    Harness redis;
    TestCall one(Call::Kind::release, 'a'), two(Call::Kind::release, 'b');

    redis.greet();
    redis.send(one);
    redis.send(two);
    redis.reply("-OOM command not allowed when used memory > 'maxmemory'.\r\n"
                "-secret arguments repeated\r\n");

    assert_true(one.ended_unavailable(false));
    assert_true(two.ended_unavailable(true));
    assert_string_equal(redis.errors.c_str(), "release OOM key;release ERR key;");
    assert_null(redis.pipeline.fault());
}

// What a user may not call has the code of an error of the script.
UNIT_TEST(a_command_that_is_forbidden_in_a_script_is_noperm)
{
    Harness redis;
    TestCall one(Call::Kind::release, 'a'), two(Call::Kind::release, 'b');

    redis.greet();
    redis.send(one);
    redis.send(two);
    redis.reply(
        "-ERR The user executing the script can't run this command or subcommand script: 1\r\n"
        "-ERR ACL failure in script: User shop has no permissions to run the 'del' command\r\n");

    assert_true(one.ended_as(Verdict::unavailable));
    assert_string_equal(redis.errors.c_str(), "release NOPERM key;release NOPERM key;");
}

UNIT_TEST(replies_go_to_their_calls_in_order)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), taken(Call::Kind::claim, 'b'),
        settle(Call::Kind::settle, 'c'), release(Call::Kind::release, 'd');
    std::string value = std::string("IDM\1\0\0\0R", 8) + std::string(16, 'c')
                        + std::string("\0\0\0\0\0\0\1\2", 8) + "\r\n$3\r\n";

    redis.greet();
    claim.set_value("claim");
    taken.set_value("claim");
    settle.set_value("result");

    for (TestCall *call : {&claim, &taken, &settle, &release}) {
        assert_false(redis.start(*call));
    }

    redis.written();

    // byte by byte: an answer may come in any pieces
    for (char byte : ":1700000000000001\r\n" + found_reply(value, 4321) + ":0\r\n:1\r\n") {
        redis.reply({&byte, 1});
    }

    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(claim.reply.token == 1700000000000001);
    assert_true(taken.ended_as(Verdict::found));
    assert_true(taken.reply.value == value);
    assert_ptr_equal(taken.reply.value.data(), taken.found.data());
    assert_true(taken.reply.token == 0x102);
    assert_true(taken.reply.remaining == 4321);
    assert_true(settle.ended_as(Verdict::lost));
    assert_true(release.ended_as(Verdict::done));
}

UNIT_TEST(a_value_without_memory_is_unavailable)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    claim.no_memory = true;
    redis.send(claim);
    redis.reply(found_reply("value", 1));
    assert_true(claim.ended_unavailable(false));
    assert_null(redis.pipeline.fault());
}

UNIT_TEST(a_key_without_expiry_is_found)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.reply(found_reply("", -1));
    assert_true(claim.ended_as(Verdict::found));
    assert_true(claim.reply.value.empty());
    assert_true(claim.reply.remaining == 0);
}

UNIT_TEST(a_key_may_only_be_looked_up)
{
    Harness redis;
    TestCall free(Call::Kind::claim, 'a'), taken(Call::Kind::claim, 'b'),
        bad(Call::Kind::claim, 'c');

    free.value = taken.value = bad.value = {};
    redis.greet();
    assert_true(redis.send(free).find("$0\r\n\r\n$5\r\n30000\r\n$0\r\n\r\n") != std::string::npos);
    redis.send(taken);
    redis.send(bad);
    redis.reply(":0\r\n" + found_reply("value", 70));
    assert_true(free.ended_as(Verdict::gone));
    assert_true(taken.ended_as(Verdict::found));
    assert_true(taken.reply.value == "value" && taken.reply.remaining == 70);

    // nothing was to be claimed
    redis.reply(":1\r\n");
    assert_non_null(redis.pipeline.fault());
}

UNIT_TEST(a_claim_may_want_its_token)
{
    Harness redis;
    TestCall plain(Call::Kind::claim, 'a'), wants(Call::Kind::claim, 'b');
    const Token token = ~Token(0) - 1;
    const std::string bytes = "$8\r\n\xff\xff\xff\xff\xff\xff\xff\xfe\r\n";

    redis.greet();
    assert_true(redis.send(plain).find("$5\r\n30000\r\n$0\r\n\r\n$1\r\n0\r\n")
                != std::string::npos);
    wants.token = token;
    assert_true(redis.send(wants).find("$5\r\n30000\r\n" + bytes + "$1\r\n0\r\n")
                != std::string::npos);
    redis.reply(":1\r\n:1\r\n");
    assert_true(plain.reply.token == 1);
    assert_true(wants.ended_as(Verdict::claimed));
    assert_true(wants.reply.token == token);
}

// Of every call that has a claim, with the bytes of a line end in the id.
UNIT_TEST(settle_release_and_renew_name_their_claim)
{
    Harness redis;
    TestCall settle(Call::Kind::settle, 'a'), release(Call::Kind::release, 'b'),
        renew(Call::Kind::renew, 'c');

    redis.greet();
    settle.set_value("result");
    assert_true(
        ends_with(redis.send(settle), claim_argument('a') + "$6\r\nresult\r\n$5\r\n30000\r\n"));
    assert_true(ends_with(redis.send(release), claim_argument('b')));

    std::string bytes = redis.send(renew);

    assert_int_equal(bytes.rfind("*6\r\n$7\r\nEVALSHA\r\n$40\r\n"
                                     + std::string(redis.scripts.sha(RedisScript::renew))
                                     + "\r\n$1\r\n1\r\n",
                                 0),
                     0);
    assert_true(ends_with(bytes, claim_argument('c') + "$5\r\n30000\r\n"));
    redis.reply(":1\r\n:1\r\n:1\r\n");
    assert_true(settle.ended_as(Verdict::done) && release.ended_as(Verdict::done)
                && renew.ended_as(Verdict::done));
}

UNIT_TEST(each_renewal_has_its_result)
{
    Harness redis;
    TestCall done(Call::Kind::renew, 'a'), lost(Call::Kind::renew, 'b'),
        gone(Call::Kind::renew, 'c'), failed(Call::Kind::renew, 'd'), wrong(Call::Kind::renew, 'e');

    redis.greet();

    for (TestCall *call : {&done, &lost, &gone, &failed, &wrong}) {
        assert_false(redis.start(*call));
    }

    assert_int_equal(count_of(redis.written(), "EVALSHA"), 5);

    // without the script the call is still known
    redis.reply(kNoScript);
    assert_int_equal(redis.written().rfind("*6\r\n$4\r\nEVAL\r\n", 0), 0);
    redis.reply(":0\r\n:-1\r\n-WRONGTYPE Operation against a key\r\n");
    assert_true(lost.ended_as(Verdict::lost));
    assert_true(gone.ended_as(Verdict::gone));
    assert_true(failed.ended_unavailable(false));
    assert_string_equal(redis.errors.c_str(), "renew WRONGTYPE key;");
    assert_int_equal(done.ends, 0);

    redis.reply(":2\r\n");
    assert_true(wrong.ended_unavailable(true));
    assert_non_null(redis.pipeline.fault());
}

// As the interface of a store promises it, also where they have to wait: for the greeting, or
// for a place among the commands in flight.
UNIT_TEST(the_calls_of_a_key_are_sent_in_order)
{
    for (std::size_t max_in_flight : {0, 1}) {
        for (bool greeted : {true, false}) {
            RedisPipelineOptions options = Harness::options_of_tests();

            options.max_in_flight = max_in_flight;

            Harness redis(options);
            TestCall claim(Call::Kind::claim, 'a'), renew(Call::Kind::renew, 'a'),
                settle(Call::Kind::settle, 'a'), again(Call::Kind::renew, 'a'),
                release(Call::Kind::release, 'a');

            if (greeted) {
                redis.greet();
            }

            claim.set_value("claim");
            settle.set_value("result");

            for (TestCall *call : {&claim, &renew, &settle, &again, &release}) {
                assert_false(redis.start(*call));
            }

            if (!greeted) {
                redis.pipeline.open(RedisLogin(), redis.now);
                redis.written();
                redis.reply(kPong);
            }

            std::string bytes = redis.written();

            for (int i = 0; i < 5; i++) {
                redis.reply(":1\r\n");
                bytes += redis.written();
            }

            std::size_t at = 0;

            for (RedisScript script : {RedisScript::claim, RedisScript::renew, RedisScript::settle,
                                       RedisScript::renew, RedisScript::release})
            {
                at = bytes.find(std::string(redis.scripts.sha(script)), at + 1);
                assert_true(at != std::string::npos);
            }

            assert_int_equal(count_of(bytes, "EVALSHA"), 5);
            assert_true(release.ended_as(Verdict::done));
        }
    }
}

UNIT_TEST(large_pieces_are_sent_in_place)
{
    Harness redis;
    TestCall settle(Call::Kind::settle, 'a');
    std::string large(100000, '\0');
    std::string_view pieces[] = {"head", large, "", "tail"};
    iovec out[8];

    redis.greet();
    settle.value = {pieces, 4};
    assert_false(redis.start(settle));

    bool referred = false;

    for (std::size_t i = 0, n = redis.pipeline.output(out, 8); i < n; i++) {
        referred = referred || (out[i].iov_base == large.data() && out[i].iov_len == large.size());
    }

    assert_true(referred);

    std::string bytes = redis.written();
    std::string expected =
        claim_argument('a') + "$100008\r\nhead" + large + "tail\r\n$5\r\n30000\r\n";

    assert_true(bytes.size() > expected.size());
    assert_true(bytes.compare(bytes.size() - expected.size(), expected.size(), expected) == 0);
}

UNIT_TEST(a_late_reply_is_read_and_dropped)
{
    Harness redis;
    TestCall early(Call::Kind::claim, 'a'), late(Call::Kind::release, 'b'),
        refused(Call::Kind::release, 'c'), after(Call::Kind::release, 'd');

    redis.greet();
    redis.send(early);
    redis.now += 50;
    redis.send(late);
    assert_true(redis.pipeline.next_deadline() == 1100);

    redis.now = 1100;
    redis.pipeline.expire(redis.now);
    assert_true(early.ended_unavailable(true));
    assert_int_equal(late.ends, 0);
    assert_true(redis.pipeline.stalled());
    assert_true(redis.pipeline.next_deadline() == 1150);
    assert_true(redis.start(refused));
    assert_true(refused.reply.verdict == Verdict::unavailable && !refused.reply.sent);

    // the first call is gone by now: its answer must not touch it
    early.found = "untouched";
    redis.reply(found_reply("somebody's", 9) + ":1\r\n");
    assert_string_equal(early.found.c_str(), "untouched");
    assert_true(late.ended_as(Verdict::done));
    assert_false(redis.pipeline.stalled());

    redis.send(after);
    redis.reply(":0\r\n");
    assert_true(after.ended_as(Verdict::lost));
}

// Its caller releases it: the pipeline has nothing more to do with it.
UNIT_TEST(a_late_grant_is_dropped)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), release(Call::Kind::release, 'a');

    redis.greet();
    redis.send(claim);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    assert_true(claim.ended_unavailable(true));
    redis.reply(":258\r\n");
    assert_true(redis.written().empty());
    assert_true(redis.pipeline.idle() && !redis.pipeline.stalled());
    assert_int_equal(claim.ends, 1);

    assert_true(ends_with(redis.send(release), claim_argument('a')));
    redis.reply(":1\r\n");
    assert_true(release.ended_as(Verdict::done));
}

// A claim whose reply does not come may be in Redis, whatever ended the connection.
UNIT_TEST(what_was_in_flight_when_the_connection_is_closed_may_be_done)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        renew(Call::Kind::renew, 'c'), waits(Call::Kind::claim, 'd');

    redis.greet();
    claim.set_value("claim");
    settle.set_value("result");
    redis.send(claim);
    redis.send(settle);
    redis.send(renew);
    redis.pipeline.pause();
    assert_false(redis.start(waits));
    redis.pipeline.close();
    assert_true(claim.ended_unavailable(true));
    assert_true(settle.ended_unavailable(true));
    assert_true(renew.ended_unavailable(true));
    assert_int_equal(waits.ends, 0);
    redis.pipeline.end_waiting();
    assert_true(waits.ended_unavailable(false));
}

// An error of Redis itself says that the key is as it was; one with another code may be that of a proxy, which does not know.
UNIT_TEST(some_errors_say_that_nothing_was_changed)
{
    const struct {
        const char *error;
        bool sent;
    } cases[] = {
        {"-OOM command not allowed when used memory > 'maxmemory'.\r\n", false},
        {"-READONLY You can't write against a read only replica.\r\n", false},
        {"-LOADING Redis is loading the dataset in memory\r\n", false},
        {"-CLUSTERDOWN Hash slot not served\r\n", false},
        {"-NOREPLICAS Not enough good replicas to write.\r\n", false},
        {"-MISCONF Redis is configured to save RDB snapshots\r\n", false},
        {"-NOPERM this user has no permissions\r\n", false},
        {"-BUSY Redis is busy running a script.\r\n", false},
        {"-CROSSSLOT Keys in request don't hash to the same slot\r\n", false},
        {"-ERR Connection timed out\r\n", true},
        {"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n", true},
        {"-ERR Protocol error: invalid bulk length\r\n", true},
        {"-upstream failure\r\n", true},
        {"-OOMX what\r\n", true},
    };

    for (const auto &each : cases) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a');

        redis.greet();
        redis.send(claim);
        redis.reply(each.error);

        if (!claim.ended_unavailable(each.sent)) {
            fail_msg("%s", each.error);
        }

        assert_null(redis.pipeline.fault());
    }
}

UNIT_TEST(a_value_that_redis_will_never_take_is_refused)
{
    Harness redis;
    TestCall large(Call::Kind::settle, 'a'), other(Call::Kind::settle, 'b'),
        behind(Call::Kind::release, 'c');

    redis.greet();
    large.set_value("result");
    other.set_value("result");
    redis.send(large);
    redis.send(other);
    redis.send(behind);
    redis.reply("-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n");
    assert_true(large.ended_as(Verdict::refused));
    assert_null(redis.pipeline.fault());
    assert_false(redis.pipeline.value_refused());

    // Redis closes the connection: the reply is the last one
    other.then = [&](TestCall &) {
        TestCall next(Call::Kind::settle, 'b');

        assert_true(redis.start(next));
        assert_false(next.reply.sent);
    };
    redis.reply("-ERR Protocol error: invalid bulk length\r\n");
    assert_true(other.ended_as(Verdict::refused));
    assert_string_equal(redis.errors.c_str(), "settle ERR key;settle ERR key;");
    assert_non_null(redis.pipeline.fault());
    assert_true(redis.pipeline.value_refused());
    assert_int_equal(behind.ends, 0);
    redis.pipeline.close();
    assert_true(behind.ended_unavailable(true));
    assert_false(redis.pipeline.value_refused());
}

// It replies as soon as it has read the length, and the rest of the value is not written any more.
UNIT_TEST(a_value_is_refused_before_all_of_it_is_written)
{
    const std::string large(300000, 'v');
    const char *error = "-ERR Protocol error: invalid bulk length\r\n";

    Harness redis;
    TestCall before(Call::Kind::release, 'a'), partly(Call::Kind::settle, 'b');
    iovec pieces[8];

    redis.greet();
    partly.set_value(large);
    assert_false(redis.start(before));
    assert_false(redis.start(partly));
    assert_true(redis.pipeline.output(pieces, 8) > 1);
    redis.pipeline.wrote(pieces[0].iov_len + 1000);
    redis.reply(std::string(":1\r\n") + error);
    assert_true(before.ended_as(Verdict::done));
    assert_true(partly.ended_as(Verdict::refused));
    assert_int_equal(redis.pipeline.output(pieces, 8), 0);
    redis.pipeline.close();
    assert_int_equal(partly.ends, 1);

    // the write has failed: how much of it was written is not known
    Harness failed;
    TestCall settle(Call::Kind::settle, 'b'), early(Call::Kind::settle, 'c');
    iovec piece;

    failed.greet();
    settle.set_value(large);
    assert_false(failed.start(settle));
    assert_int_equal(failed.pipeline.output(&piece, 1), 1);
    failed.reply(error);
    assert_true(settle.ended_as(Verdict::refused));

    // but not before any of it is written
    failed.pipeline.close();
    failed.greet();
    early.set_value(large);
    assert_false(failed.start(early));
    failed.reply(error);
    assert_true(early.ended_unavailable(true));
    assert_false(failed.pipeline.value_refused());
}

// Its value came in time, the rest of it when the call and its room were gone.
UNIT_TEST(half_a_reply_is_not_written_after_its_call_has_ended)
{
    Harness redis;
    auto *claim = new TestCall(Call::Kind::claim, 'a');
    TestCall next(Call::Kind::release, 'b');
    std::string answer = found_reply(std::string(300000, 'x'), 9);

    redis.greet();
    redis.send(*claim);
    redis.reply(answer.substr(0, answer.size() - 4));
    assert_int_equal(claim->found.size(), 300000);

    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    assert_true(claim->ended_as(Verdict::unavailable));
    delete claim;

    redis.reply(answer.substr(answer.size() - 4));
    assert_null(redis.pipeline.fault());
    redis.send(next);
    redis.reply(":1\r\n");
    assert_true(next.ended_as(Verdict::done));
}

// The rest of a value must not go where its first half went.
UNIT_TEST(half_a_value_is_not_written_after_its_call_has_ended)
{
    for (bool closed : {false, true}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::claim, 'b');
        std::string value = std::string(50000, 'x') + std::string(50000, 'y');
        std::string answer = found_reply(value, 9);

        redis.greet();
        redis.send(claim);
        redis.reply(answer.substr(0, 50000));
        assert_true(claim.found.size() == value.size() && claim.found[0] == 'x');

        if (closed) {
            redis.pipeline.close();
            redis.greet();
            redis.send(next);
            redis.reply(answer);
        } else {
            redis.pipeline.expire(redis.now + kTimeout);
            redis.reply(answer.substr(50000));
            redis.send(next);
            redis.reply(answer);
        }

        assert_true(claim.ended_as(Verdict::unavailable));
        assert_true(claim.found.find('y') == std::string::npos);
        assert_true(next.ended_as(Verdict::found));
        assert_true(next.reply.value == value);
    }
}

UNIT_TEST(a_stall_ends_with_the_connection)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.pipeline.expire(1100);
    assert_null(redis.pipeline.fault());

    Millis end = redis.pipeline.next_deadline();

    assert_true(end == 1400);
    redis.pipeline.expire(end - 1);
    assert_null(redis.pipeline.fault());
    redis.pipeline.expire(end);
    assert_non_null(redis.pipeline.fault());
    assert_int_equal(claim.ends, 1);
}

UNIT_TEST(a_command_that_is_not_written_in_time_is_a_fault)
{
    Harness redis;
    TestCall settle(Call::Kind::settle, 'a');
    iovec piece;

    redis.greet();
    settle.set_value("result");
    assert_false(redis.start(settle));
    assert_int_equal(redis.pipeline.output(&piece, 1), 1);
    redis.pipeline.wrote(10);

    redis.pipeline.expire(1100);
    assert_non_null(redis.pipeline.fault());
    assert_int_equal(redis.pipeline.output(&piece, 1), 0);
    redis.pipeline.close();
    assert_true(settle.ended_unavailable(true));
}

UNIT_TEST(a_waiting_call_ends_at_its_deadline)
{
    Harness redis;
    TestCall early(Call::Kind::release, 'a'), later(Call::Kind::release, 'b');

    assert_false(redis.start(early));
    redis.now += 10;
    assert_false(redis.start(later));
    assert_true(redis.pipeline.next_deadline() == 1100);

    redis.pipeline.expire(1100);
    assert_true(early.ended_unavailable(false));
    assert_int_equal(later.ends, 0);
    assert_false(redis.pipeline.stalled());
    redis.pipeline.end_waiting();
    assert_true(later.ended_unavailable(false));
}

UNIT_TEST(a_missing_script_is_sent_as_text)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), release(Call::Kind::release, 'b');

    redis.greet();
    claim.set_value("the claim");
    redis.send(claim);
    redis.send(release);
    redis.reply(kNoScript);

    std::string bytes = redis.written();

    assert_true(bytes.find("$4\r\nEVAL\r\n") != std::string::npos);
    assert_true(bytes.find(std::string(script_text(RedisScript::claim))) != std::string::npos);
    assert_true(bytes.find("$9\r\nthe claim\r\n") != std::string::npos);

    redis.reply(":0\r\n");
    assert_true(release.ended_as(Verdict::lost));
    assert_int_equal(claim.ends, 0);

    redis.reply(":7\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_string_equal(redis.errors.c_str(), "");
}

// Its caller does not wait for the reply, so it can't be sent again.
UNIT_TEST(a_call_that_is_only_sent_has_the_text_of_its_script)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    release.send_only = true;

    std::string bytes = redis.send(release);

    assert_int_equal(bytes.rfind("*5\r\n$4\r\nEVAL\r\n", 0), 0);
    assert_true(bytes.find(std::string(script_text(RedisScript::release))) != std::string::npos);
    assert_true(ends_with(bytes, claim_argument('b')));
}

UNIT_TEST(a_script_is_sent_as_text_once)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    redis.send(release);
    redis.reply(kNoScript);
    redis.written();
    redis.reply(kNoScript);
    assert_true(release.ended_unavailable(false));
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "release NOSCRIPT key;");
}

UNIT_TEST(a_late_command_is_not_sent_again)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.pipeline.expire(1100);
    redis.reply(kNoScript);
    assert_true(redis.written().empty());
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(garbage_ends_everything)
{
    const std::string garbage[] = {
        "hello\r\n",
        "$-2\r\n",
        "*3\r\n:1\r\n:2\r\n:3\r\n",
        "*2\r\n*2\r\n",
        "*0\r\n",
        "+OK\r\n",
        "$2\r\nhi\r\n",
        "$-1\r\n",
        "*-1\r\n",
        ":x\r\n",
        ":-5\r\n",
        ":0\r\n",
        "*2\r\n:1\r\n:2\r\n",
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*2\r\n+a\r\n:1\r\n",
        "%1\r\n+a\r\n:1\r\n",
        "#t\r\n",
        "_\r\n",
        std::string("\0\0\0\0\r\n", 6),
    };

    for (const std::string &bytes : garbage) {
        Harness redis;
        TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::settle, 'b');

        redis.greet();
        redis.send(first);
        redis.send(second);
        redis.reply(bytes);

        if (redis.pipeline.fault() == nullptr) {
            fail_msg("taken for an answer: %s", bytes.c_str());
        }

        redis.reply(":1\r\n");
        redis.pipeline.close();
        assert_true(first.ended_unavailable(true));
        assert_true(second.ended_unavailable(true));
    }
}

UNIT_TEST(a_reply_without_a_command_is_garbage)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    redis.reply(":1\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_true(redis.start(release));
    assert_false(release.reply.sent);
}

UNIT_TEST(a_reply_before_its_command_is_written_is_garbage)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    assert_false(redis.start(release));
    redis.reply(":1\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_true(release.ended_as(Verdict::unavailable));
    assert_true(redis.written().empty());
}

UNIT_TEST(half_a_reply_does_nothing)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::release, 'b');

    redis.greet();
    redis.send(claim);
    redis.reply("*2\r\n$5\r\nval");
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(claim.reply.value.empty());

    // the next connection begins with a clean slate
    redis.greet();
    redis.send(next);
    redis.reply(":1\r\n");
    assert_true(next.ended_as(Verdict::done));
}

UNIT_TEST(a_call_may_start_another_one_when_it_ends)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), release(Call::Kind::release, 'a');

    TestCall *another = &release;

    claim.then = [&](TestCall &ended) {
        assert_int_equal(ended.ends, 1);
        assert_false(redis.start(*another));
    };

    redis.greet();
    redis.send(claim);
    redis.reply(":9\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    redis.written();
    redis.reply(":1\r\n");
    assert_true(release.ended_as(Verdict::done));

    // at the end of a connection it waits for the next one
    TestCall lost(Call::Kind::claim, 'c'), waits(Call::Kind::release, 'c');

    another = &waits;
    lost.then = claim.then;
    redis.send(lost);
    redis.pipeline.close();
    assert_true(lost.ended_as(Verdict::unavailable));
    assert_int_equal(waits.ends, 0);
    assert_false(redis.pipeline.idle());
    redis.pipeline.end_waiting();
    assert_true(waits.ended_as(Verdict::unavailable));
}

}  // namespace
