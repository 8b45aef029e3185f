// The pipeline alone: what a Redis would answer is written here by hand.

#include "cmocka.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/record.h"
#include "core/wire.h"
#include "store/redis_pipeline.h"

using namespace idempotency;

namespace {

constexpr Millis kTimeout = 100;
constexpr const char *kPong = "+PONG\r\n";
constexpr const char *kNoScript = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

struct TestCall : Call {
    TestCall(Kind what, unsigned char key)
    {
        kind = what;
        id.bytes.fill(key);
        lifetime = 30000;
        room = give_room;
        ended = note_end;
    }

    void set_value(std::string_view bytes)
    {
        piece = bytes;
        value = {&piece, 1};
    }

    static char *give_room(Call &call, std::size_t size)
    {
        auto &self = static_cast<TestCall &>(call);

        if (self.no_room) {
            return nullptr;
        }

        self.found.resize(size);
        return &self.found[0];
    }

    static void note_end(Call &call)
    {
        auto &self = static_cast<TestCall &>(call);

        assert_int_equal(self.ends, 0);
        self.ends++;

        if (self.then != nullptr) {
            self.then(self);
        }
    }

    bool ended_as(Verdict verdict) const { return ends == 1 && reply.verdict == verdict; }

    int ends = 0;
    bool no_room = false;
    std::string found;
    std::string_view piece;
    void (*then)(TestCall &) = nullptr;
};

struct Harness : RedisPipeline::Events {
    explicit Harness(const RedisManner &manner = manner_of_tests())
        : pipeline(scripts, manner, *this)
    {
    }

    static RedisManner manner_of_tests()
    {
        RedisManner manner;

        manner.prefix = "idm:";
        manner.timeout = kTimeout;
        return manner;
    }

    void greeted() override { greetings++; }

    void error_answer(const char *what, const char *code, const KeyId *id) override
    {
        errors += std::string(what) + " " + code + (id != nullptr ? " key;" : ";");
    }

    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override
    {
        redirected_call = &call;
        note_redirect(redirect);
        redirects += " by " + std::to_string(deadline) + ";";
    }

    void lease_redirected(const Lease &lease, const RedisRedirect &redirect) override
    {
        note_redirect(redirect);
        redirects += " lease " + std::to_string(lease.token) + ";";
    }

    void rerouted(Call &call, Millis deadline) override
    {
        rerouted_call = &call;
        rerouted_deadline = deadline;
    }

    void note_redirect(const RedisRedirect &redirect)
    {
        redirects += (redirect.ask ? "ask " : "moved ") + std::to_string(redirect.slot) + " to "
                     + std::string(redirect.host) + " " + std::to_string(redirect.port);
    }

    void greet()
    {
        pipeline.open(RedisLogin(), now);
        written();
        answer(kPong);
        assert_true(pipeline.ready());
    }

    // What there is to write, all of it.
    std::string written()
    {
        std::string bytes;
        iovec pieces[3];

        while (std::size_t n = pipeline.output(pieces, 3)) {
            std::size_t size = 0;

            for (std::size_t i = 0; i < n; i++) {
                bytes.append(static_cast<char *>(pieces[i].iov_base), pieces[i].iov_len);
                size += pieces[i].iov_len;
            }

            pipeline.wrote(size);
        }

        return bytes;
    }

    void answer(std::string_view bytes) { pipeline.input(bytes, now); }

    bool start(Call &call) { return pipeline.start(call, now + kTimeout); }

    // Starts a call and has it written.
    std::string send(Call &call)
    {
        assert_false(start(call));
        return written();
    }

    RedisScripts scripts;
    std::string errors;
    std::string redirects;
    Call *redirected_call = nullptr;
    Call *rerouted_call = nullptr;
    Millis rerouted_deadline = 0;
    int greetings = 0;
    Millis now = 1000;
    RedisPipeline pipeline;
};

std::string found_answer(const std::string &value, long long ttl)
{
    return "*2\r\n$" + std::to_string(value.size()) + "\r\n" + value + "\r\n:"
           + std::to_string(ttl) + "\r\n";
}

std::size_t count_of(const std::string &text, const std::string &part)
{
    std::size_t n = 0;

    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at++) {
        n++;
    }

    return n;
}

void calls_wait_for_the_greeting(void **)
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
    assert_true(redis.written() == "*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$7\r\nse cret\r\n"
                                   "*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n"
                                   "*1\r\n$4\r\nPING\r\n");
    redis.answer("+OK\r\n+OK\r\n");
    assert_true(redis.written().empty());
    assert_int_equal(redis.greetings, 0);

    redis.answer(kPong);
    assert_int_equal(redis.greetings, 1);
    assert_true(redis.written().find("EVALSHA") != std::string::npos);

    redis.answer(":1\r\n");
    assert_true(call.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

void a_refused_greeting_is_a_fault_and_sends_nothing(void **)
{
    Harness redis;
    TestCall call(Call::Kind::release, 'a');
    RedisLogin login;

    login.password = "wrong";
    assert_false(redis.start(call));
    redis.pipeline.open(login, redis.now);
    redis.written();
    redis.answer("-WRONGPASS invalid username-password pair or user is disabled.\r\n");

    assert_non_null(redis.pipeline.fault());
    assert_string_equal(redis.errors.c_str(), "AUTH WRONGPASS;");
    assert_true(redis.written().empty());

    redis.pipeline.close();
    assert_int_equal(call.ends, 0);
    redis.pipeline.give_up();
    assert_true(call.ended_as(Verdict::unavailable));
}

void a_connection_that_is_left_ends_what_it_has_begun(void **)
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

    redis.answer(":1\r\n");
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
    redis.answer(kPong);
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.answer(":1\r\n");
    assert_true(kept.ended_as(Verdict::done));
}

void a_master_is_greeted_where_one_is_wanted(void **)
{
    const struct {
        const char *answer;
        const char *fault;
    } cases[] = {
        {"*3\r\n$6\r\nmaster\r\n:3129659\r\n*2\r\n"
         "*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$7\r\n3129242\r\n"
         "*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9002\r\n$7\r\n3129543\r\n", nullptr},
        {"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", nullptr},
        {"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$9\r\nconnected\r\n:3167038\r\n",
         "it is a replica"},
        {"*2\r\n$8\r\nsentinel\r\n*1\r\n$8\r\nmymaster\r\n", "it is no master"},
        {"*2\r\n$17\r\nmaster and so on!\r\n:1\r\n", "it is no master"},
        {"+master\r\n", "it does not greet as Redis does"},
        {"$6\r\nmaster\r\n", "it does not greet as Redis does"},
        {"-NOPERM this user has no permissions to run the 'role' command\r\n",
         "it refuses the connection"},
    };

    for (const auto &each : cases) {
        Harness redis;
        RedisLogin login;

        login.master_only = true;
        redis.pipeline.open(login, redis.now);
        assert_true(redis.written() == "*1\r\n$4\r\nROLE\r\n*1\r\n$4\r\nPING\r\n");
        redis.answer(each.answer);

        if (each.fault != nullptr) {
            assert_string_equal(redis.pipeline.fault(), each.fault);
        } else {
            assert_null(redis.pipeline.fault());
        }

        redis.answer(kPong);
        assert_int_equal(redis.greetings, each.fault == nullptr);
    }
}

void an_error_is_named_without_its_text(void **)
{
    Harness redis;
    TestCall one(Call::Kind::release, 'a'), two(Call::Kind::release, 'b');

    redis.greet();
    redis.send(one);
    redis.send(two);
    redis.answer("-OOM command not allowed when used memory > 'maxmemory'.\r\n"
                 "-secret arguments repeated\r\n");

    assert_true(one.ended_as(Verdict::unavailable));
    assert_true(two.ended_as(Verdict::unavailable));
    assert_string_equal(redis.errors.c_str(), "release OOM key;release ERR key;");
    assert_null(redis.pipeline.fault());
}

// What a user may not call has the code of an error of the script.
void a_command_that_is_forbidden_in_a_script_is_named(void **)
{
    Harness redis;
    TestCall one(Call::Kind::release, 'a'), two(Call::Kind::release, 'b');

    redis.greet();
    redis.send(one);
    redis.send(two);
    redis.answer("-ERR The user executing the script can't run this command or subcommand script: 1\r\n"
                 "-ERR ACL failure in script: User shop has no permissions to run the 'del' command\r\n");

    assert_true(one.ended_as(Verdict::unavailable));
    assert_string_equal(redis.errors.c_str(), "release NOPERM key;release NOPERM key;");
}

void answers_go_to_their_calls_in_order(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), taken(Call::Kind::claim, 'b'),
        settle(Call::Kind::settle, 'c'), release(Call::Kind::release, 'd');
    std::string value("IDM\1\0\0\0R\0\0\0\0\0\0\1\2\r\n$3\r\n", 22);

    redis.greet();
    claim.set_value("claim");
    taken.set_value("claim");
    settle.set_value("result");

    for (TestCall *call : {&claim, &taken, &settle, &release}) {
        assert_false(redis.start(*call));
    }

    redis.written();

    // byte by byte: an answer may come in any pieces
    for (char byte : ":1700000000000001\r\n" + found_answer(value, 4321) + ":0\r\n:1\r\n") {
        redis.answer({&byte, 1});
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

void a_value_without_room_is_unavailable(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    claim.no_room = true;
    redis.send(claim);
    redis.answer(found_answer("value", 1));
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_null(redis.pipeline.fault());
}

void a_key_without_expiry_is_found(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.answer(found_answer("", -1));
    assert_true(claim.ended_as(Verdict::found));
    assert_true(claim.reply.value.empty());
    assert_true(claim.reply.remaining == 0);
}

void a_claim_may_want_its_token(void **)
{
    Harness redis;
    TestCall plain(Call::Kind::claim, 'a'), wants(Call::Kind::claim, 'b'),
        late(Call::Kind::claim, 'c');
    const Token token = ~Token(0) - 1;
    const std::string bytes = "$8\r\n\xff\xff\xff\xff\xff\xff\xff\xfe\r\n";

    redis.greet();
    assert_true(redis.send(plain).find("$5\r\n30000\r\n$0\r\n\r\n$1\r\n0\r\n")
                != std::string::npos);
    wants.token = late.token = token;
    assert_true(redis.send(wants).find("$5\r\n30000\r\n" + bytes + "$1\r\n0\r\n")
                != std::string::npos);
    redis.answer(":1\r\n:1\r\n");
    assert_true(plain.reply.token == 1);
    assert_true(wants.ended_as(Verdict::claimed));
    assert_true(wants.reply.token == token);

    // it is known even where the call is not any more
    redis.send(late);
    redis.pipeline.expire(redis.now + kTimeout);
    redis.answer(":1\r\n");
    assert_true(redis.written().find(bytes) != std::string::npos);
}

void a_large_value_is_told_of_and_not_sent(void **)
{
    RedisManner manner = Harness::manner_of_tests();

    manner.inline_limit = 4711;

    Harness redis(manner);
    TestCall claim(Call::Kind::claim, 'a'), late(Call::Kind::claim, 'b'),
        settle(Call::Kind::settle, 'c');

    redis.greet();
    assert_true(redis.send(claim).find("$4\r\n4711\r\n") != std::string::npos);
    redis.answer("*2\r\n$5\r\n60000\r\n:-4712\r\n");
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
    redis.answer("*2\r\n$5\r\n60000\r\n:-5000\r\n:0\r\n");
    assert_null(redis.rerouted_call);
    assert_true(late.ended_as(Verdict::unavailable));
    assert_null(redis.pipeline.fault());

    // who has no room for it does not ask for it
    TestCall refuses(Call::Kind::claim, 'd'), wrong(Call::Kind::claim, 'e');

    refuses.no_room = true;
    redis.send(refuses);
    redis.answer("*2\r\n$5\r\n60000\r\n:-1000000000000\r\n");
    assert_null(redis.rerouted_call);
    assert_true(refuses.ended_as(Verdict::unavailable));
    assert_null(redis.pipeline.fault());

    redis.send(wrong);
    redis.answer("*2\r\n$5\r\n60000\r\n:-4711\r\n");
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

void a_large_value_is_fetched_for_itself(void **)
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
        redis.answer(bulk(value) + ":1\r\n");
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
            redis.answer({&byte, 1});
        }
        assert_true(slow.ended_as(Verdict::found));
        assert_true(slow.reply.value == value);
    }
}

void a_value_that_is_large_no_more_is_claimed_again(void **)
{
    for (std::string answer : {std::string("$-1\r\n"), bulk("small"), bulk(""), bulk(value_of(4999)), bulk(value_of(300000))}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::settle, 'b');

        redis.greet();
        tell_of(claim, redis, 5000);
        redis.send(claim);
        redis.send(next);
        redis.answer(answer + ":1\r\n");
        assert_ptr_equal(redis.rerouted_call, &claim);
        assert_int_equal(claim.large, 0);
        assert_int_equal(claim.ends, 0);
        assert_true(next.ended_as(Verdict::done));
        assert_null(redis.pipeline.fault());
        assert_true(redis.pipeline.idle());
    }
}

void what_comes_of_a_fetch_otherwise(void **)
{
    Harness redis;
    TestCall late(Call::Kind::claim, 'a'), full(Call::Kind::claim, 'b'), error(Call::Kind::claim, 'c'),
        wrong(Call::Kind::claim, 'd');

    redis.greet();
    for (TestCall *call : {&late, &full, &error, &wrong}) {
        tell_of(*call, redis, 5000);
    }

    redis.send(late);
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(late.ended_as(Verdict::unavailable));
    redis.answer(bulk(value_of(5000)));
    assert_int_equal(late.ends, 1);
    assert_null(redis.rerouted_call);

    full.no_room = true;
    redis.send(full);
    redis.answer(bulk(value_of(5000)));
    assert_true(full.ended_as(Verdict::unavailable));

    redis.send(error);
    redis.answer("-WRONGTYPE Operation against a key\r\n");
    assert_true(error.ended_as(Verdict::unavailable));
    assert_null(redis.rerouted_call);
    assert_null(redis.pipeline.fault());

    redis.send(wrong);
    redis.answer(":1\r\n");
    assert_true(wrong.ended_as(Verdict::unavailable));
    assert_non_null(redis.pipeline.fault());
}

void large_pieces_are_sent_in_place(void **)
{
    Harness redis;
    TestCall settle(Call::Kind::settle, 'a');
    std::string large(100000, '\0');
    std::string_view pieces[] = {"head", large, "", "tail"};
    iovec out[8];

    redis.greet();
    settle.token = 0x0d0a000000000001;
    settle.value = {pieces, 4};
    assert_false(redis.start(settle));

    bool referred = false;

    for (std::size_t i = 0, n = redis.pipeline.output(out, 8); i < n; i++) {
        referred = referred || (out[i].iov_base == large.data() && out[i].iov_len == large.size());
    }

    assert_true(referred);

    std::string bytes = redis.written();
    std::string expected = "$8\r\n" + std::string("\r\n\0\0\0\0\0\1", 8) + "\r\n$100008\r\nhead"
                           + large + "tail\r\n$5\r\n30000\r\n";

    assert_true(bytes.size() > expected.size());
    assert_true(bytes.compare(bytes.size() - expected.size(), expected.size(), expected) == 0);
}

void a_late_answer_is_read_and_dropped(void **)
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
    assert_true(early.ended_as(Verdict::unavailable));
    assert_int_equal(late.ends, 0);
    assert_true(redis.pipeline.stalled());
    assert_true(redis.pipeline.next_deadline() == 1150);
    assert_true(redis.start(refused));
    assert_true(refused.reply.verdict == Verdict::unavailable);

    // the first call is gone by now: its answer must not touch it
    early.found = "untouched";
    redis.answer(found_answer("somebody's", 9) + ":1\r\n");
    assert_string_equal(early.found.c_str(), "untouched");
    assert_true(late.ended_as(Verdict::done));
    assert_false(redis.pipeline.stalled());

    redis.send(after);
    redis.answer(":0\r\n");
    assert_true(after.ended_as(Verdict::lost));
}

void a_claim_that_is_granted_late_is_released(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    redis.answer(":258\r\n");

    std::string bytes = redis.written();

    assert_true(bytes.find(std::string(redis.scripts.sha(RedisScript::release)))
                != std::string::npos);
    assert_true(bytes.find(std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)) != std::string::npos);
    assert_false(redis.pipeline.idle());
    redis.answer(":1\r\n");
    assert_true(redis.pipeline.idle());
}

// Its value came in time, the rest of it when the call and its room were gone.
void half_an_answer_does_not_outlive_its_call(void **)
{
    Harness redis;
    auto *claim = new TestCall(Call::Kind::claim, 'a');
    TestCall next(Call::Kind::release, 'b');
    std::string answer = found_answer(std::string(300000, 'x'), 9);

    redis.greet();
    redis.send(*claim);
    redis.answer(answer.substr(0, answer.size() - 4));
    assert_int_equal(claim->found.size(), 300000);

    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    assert_true(claim->ended_as(Verdict::unavailable));
    delete claim;

    redis.answer(answer.substr(answer.size() - 4));
    assert_null(redis.pipeline.fault());
    redis.send(next);
    redis.answer(":1\r\n");
    assert_true(next.ended_as(Verdict::done));
}

// The rest of a value must not go where its first half went.
void half_a_value_does_not_outlive_its_call(void **)
{
    for (bool closed : {false, true}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::claim, 'b');
        std::string value = std::string(50000, 'x') + std::string(50000, 'y');
        std::string answer = found_answer(value, 9);

        redis.greet();
        redis.send(claim);
        redis.answer(answer.substr(0, 50000));
        assert_true(claim.found.size() == value.size() && claim.found[0] == 'x');

        if (closed) {
            redis.pipeline.close();
            redis.greet();
            redis.send(next);
            redis.answer(answer);
        } else {
            redis.pipeline.expire(redis.now + kTimeout);
            redis.answer(answer.substr(50000));
            redis.send(next);
            redis.answer(answer);
        }

        assert_true(claim.ended_as(Verdict::unavailable));
        assert_true(claim.found.find('y') == std::string::npos);
        assert_true(next.ended_as(Verdict::found));
        assert_true(next.reply.value == value);
    }
}

void a_stall_ends_with_the_connection(void **)
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

void what_could_not_be_written_in_time_is_not_left_half_written(void **)
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
    assert_true(settle.ended_as(Verdict::unavailable));
}

void a_waiting_call_ends_at_its_deadline(void **)
{
    Harness redis;
    TestCall early(Call::Kind::release, 'a'), later(Call::Kind::release, 'b');

    assert_false(redis.start(early));
    redis.now += 10;
    assert_false(redis.start(later));
    assert_true(redis.pipeline.next_deadline() == 1100);

    redis.pipeline.expire(1100);
    assert_true(early.ended_as(Verdict::unavailable));
    assert_int_equal(later.ends, 0);
    assert_false(redis.pipeline.stalled());
}

void a_missing_script_is_sent_along(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), release(Call::Kind::release, 'b');

    redis.greet();
    claim.set_value("the claim");
    redis.send(claim);
    redis.send(release);
    redis.answer(kNoScript);

    std::string bytes = redis.written();

    assert_true(bytes.find("$4\r\nEVAL\r\n") != std::string::npos);
    assert_true(bytes.find(std::string(script_text(RedisScript::claim))) != std::string::npos);
    assert_true(bytes.find("$9\r\nthe claim\r\n") != std::string::npos);

    redis.answer(":0\r\n");
    assert_true(release.ended_as(Verdict::lost));
    assert_int_equal(claim.ends, 0);

    redis.answer(":7\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_string_equal(redis.errors.c_str(), "");
}

void a_script_is_sent_along_once(void **)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    redis.send(release);
    redis.answer(kNoScript);
    redis.written();
    redis.answer(kNoScript);
    assert_true(release.ended_as(Verdict::unavailable));
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "release NOSCRIPT key;");
}

void a_late_command_is_not_sent_again(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.pipeline.expire(1100);
    redis.answer(kNoScript);
    assert_true(redis.written().empty());
    assert_true(redis.pipeline.idle());
}

void garbage_ends_everything(void **)
{
    const std::string garbage[] = {
        "hello\r\n", "$-2\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n", "*2\r\n*2\r\n", "*0\r\n", "+OK\r\n",
        "$2\r\nhi\r\n", "$-1\r\n", "*-1\r\n", ":x\r\n", ":-5\r\n", ":0\r\n", "*2\r\n:1\r\n:2\r\n",
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n+a\r\n:1\r\n", "%1\r\n+a\r\n:1\r\n", "#t\r\n", "_\r\n",
        std::string("\0\0\0\0\r\n", 6),
    };

    for (const std::string &bytes : garbage) {
        Harness redis;
        TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::settle, 'b');

        redis.greet();
        redis.send(first);
        redis.send(second);
        redis.answer(bytes);

        if (redis.pipeline.fault() == nullptr) {
            fail_msg("taken for an answer: %s", bytes.c_str());
        }

        redis.answer(":1\r\n");
        redis.pipeline.close();
        assert_true(first.ended_as(Verdict::unavailable));
        assert_true(second.ended_as(Verdict::unavailable));
    }
}

void an_answer_that_nobody_asked_for_is_garbage(void **)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    redis.answer(":1\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_true(redis.start(release));
}

void an_answer_before_its_command_is_garbage(void **)
{
    Harness redis;
    TestCall release(Call::Kind::release, 'b');

    redis.greet();
    assert_false(redis.start(release));
    redis.answer(":1\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_true(release.ended_as(Verdict::unavailable));
    assert_true(redis.written().empty());
}

void half_an_answer_is_nothing(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), next(Call::Kind::release, 'b');

    redis.greet();
    redis.send(claim);
    redis.answer("*2\r\n$5\r\nval");
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(claim.reply.value.empty());

    // the next connection begins with a clean slate
    redis.greet();
    redis.send(next);
    redis.answer(":1\r\n");
    assert_true(next.ended_as(Verdict::done));
}

Harness *current;
TestCall *another;

void a_call_may_start_another_from_its_end(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), release(Call::Kind::release, 'a');

    current = &redis;
    another = &release;
    claim.then = [](TestCall &ended) {
        another->token = ended.reply.token;
        assert_false(current->start(*another));
    };

    redis.greet();
    redis.send(claim);
    redis.answer(":9\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    redis.written();
    redis.answer(":1\r\n");
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
    redis.pipeline.give_up();
    assert_true(waits.ended_as(Verdict::unavailable));
}

void renewals_share_commands(void **)
{
    Harness redis;
    std::vector<Lease> leases(kRenewedAtOnce + 1);

    redis.pipeline.renew(leases.data(), leases.size(), redis.now);
    assert_true(redis.pipeline.idle());

    redis.greet();
    redis.pipeline.renew(leases.data(), leases.size(), redis.now);

    std::string bytes = redis.written();

    // a command, its digest and number of keys; a key, a token and a length each
    std::string head = "*" + std::to_string(3 + 3 * kRenewedAtOnce) + "\r\n";

    assert_int_equal(bytes.rfind(head, 0), 0);
    assert_true(bytes.find("*6\r\n$7\r\nEVALSHA") != std::string::npos);

    // without the script the leases are still known
    redis.answer(kNoScript);
    assert_int_equal(redis.written().rfind(head + "$4\r\nEVAL\r\n", 0), 0);
    redis.answer(":1\r\n:64\r\n");
    assert_true(redis.pipeline.idle());
    assert_null(redis.pipeline.fault());
}

void a_renewal_is_for_one_key_where_there_are_slots(void **)
{
    RedisManner manner = Harness::manner_of_tests();

    manner.single_renewals = true;

    Harness redis(manner);
    std::vector<Lease> leases(3);

    leases[1].token = 7;
    redis.greet();
    redis.pipeline.renew(leases.data(), leases.size(), redis.now);
    assert_int_equal(count_of(redis.written(), "*6\r\n$7\r\nEVALSHA"), 3);

    redis.answer(":1\r\n-MOVED 3 host:7\r\n:0\r\n");
    assert_string_equal(redis.redirects.c_str(), "moved 3 to host 7 lease 7;");
    assert_true(redis.pipeline.idle());
    assert_null(redis.pipeline.fault());
}

void a_redirected_call_is_handed_over(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        release(Call::Kind::release, 'c');

    redis.greet();
    claim.set_value("claim");
    settle.set_value("result");
    redis.send(claim);
    redis.send(settle);
    redis.send(release);

    redis.answer("-MOVED 3999 127.0.0.1:6381\r\n");
    assert_ptr_equal(redis.redirected_call, &claim);
    redis.answer("-ASK 16383 ::1:6382\r\n");
    assert_ptr_equal(redis.redirected_call, &settle);
    redis.answer("-MOVED 5 :6383\r\n");
    assert_ptr_equal(redis.redirected_call, &release);

    assert_string_equal(redis.redirects.c_str(),
                        "moved 3999 to 127.0.0.1 6381 by 1100;ask 16383 to ::1 6382 by 1100;"
                        "moved 5 to  6383 by 1100;");
    assert_string_equal(redis.errors.c_str(), "");
    assert_true(redis.pipeline.idle());

    redis.pipeline.close();
    assert_int_equal(claim.ends + settle.ends + release.ends, 0);
}

void a_redirection_without_a_target_is_an_error(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), other(Call::Kind::claim, 'b');

    redis.greet();
    redis.send(claim);
    redis.send(other);
    redis.answer("-MOVED 16384 host:1\r\n-MOVED 1 " + std::string(300, 'h') + ":1\r\n");
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(other.ended_as(Verdict::unavailable));
    assert_string_equal(redis.errors.c_str(), "claim MOVED key;claim MOVED key;");
    assert_string_equal(redis.redirects.c_str(), "");
    assert_null(redis.pipeline.fault());
}

// It was not carried out, and nobody waits for it.
void a_late_redirection_is_dropped(void **)
{
    RedisManner manner = Harness::manner_of_tests();

    manner.single_renewals = true;

    Harness redis(manner);
    TestCall claim(Call::Kind::claim, 'a');
    Lease lease;

    redis.greet();
    redis.pipeline.renew(&lease, 1, redis.now);
    redis.send(claim);
    redis.pipeline.expire(redis.now + kTimeout);
    assert_true(claim.ended_as(Verdict::unavailable));
    redis.answer("-MOVED 1 host:7\r\n-MOVED 1 host:7\r\n");
    assert_string_equal(redis.redirects.c_str(), "");
    assert_string_equal(redis.errors.c_str(), "");
    assert_true(redis.pipeline.idle() && !redis.pipeline.stalled());
}

void asking_comes_before_each_command(void **)
{
    const std::string asking = "*1\r\n$6\r\nASKING\r\n";
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a'), waits(Call::Kind::release, 'b'),
        refused(Call::Kind::release, 'c');

    assert_false(redis.pipeline.start(waits, redis.now + kTimeout, true));
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.answer(kPong);
    assert_int_equal(redis.written().rfind(asking + "*5\r\n$7\r\nEVALSHA\r\n", 0), 0);
    redis.answer("+OK\r\n");
    assert_int_equal(waits.ends, 0);
    redis.answer(":1\r\n");
    assert_true(waits.ended_as(Verdict::done));

    assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));
    assert_int_equal(redis.written().rfind(asking + "*8\r\n$7\r\nEVALSHA\r\n", 0), 0);
    redis.answer("+OK\r\n");
    redis.answer(kNoScript);
    assert_int_equal(redis.written().rfind(asking + "*8\r\n$4\r\nEVAL\r\n", 0), 0);
    redis.answer("+OK\r\n:7\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_string_equal(redis.errors.c_str(), "");

    assert_false(redis.pipeline.start(refused, redis.now + kTimeout, true));
    redis.written();
    redis.answer("-NOPERM no permissions\r\n-MOVED 1 host:7\r\n");
    assert_ptr_equal(redis.redirected_call, &refused);
    assert_string_equal(redis.errors.c_str(), "ASKING NOPERM;");
    assert_true(redis.pipeline.idle());
    assert_null(redis.pipeline.fault());
}

void an_asking_is_answered_with_a_status_after_it_was_sent(void **)
{
    for (bool early : {false, true}) {
        Harness redis;
        TestCall claim(Call::Kind::claim, 'a');

        redis.greet();
        assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));

        if (!early) {
            redis.written();
        }

        redis.answer(early ? "+OK\r\n" : ":1\r\n");
        assert_non_null(redis.pipeline.fault());
        assert_int_equal(claim.ends, 0);
        redis.pipeline.close();
        assert_true(claim.ended_as(Verdict::unavailable));
    }
}

// What is under way is bounded, so that Redis need not keep many large answers.
void no_more_than_so_many_are_under_way(void **)
{
    RedisManner manner = Harness::manner_of_tests();

    manner.most_in_flight = 2;

    Harness redis(manner);
    TestCall one(Call::Kind::claim, 'a'), two(Call::Kind::settle, 'b'), three(Call::Kind::claim, 'c'),
        four(Call::Kind::release, 'd'), five(Call::Kind::claim, 'e'), six(Call::Kind::claim, 'f');

    redis.greet();

    for (TestCall *call : {&one, &two, &three, &four, &five}) {
        assert_false(redis.start(*call));
    }

    assert_int_equal(count_of(redis.written(), "EVALSHA"), 2);

    // a script that is to be sent along takes the place that it had
    redis.answer(kNoScript);
    assert_int_equal(count_of(redis.written(), "$4\r\nEVAL\r\n"), 1);

    // "three", and "four", which comes behind it but needs no room
    redis.answer(":0\r\n");
    assert_true(two.ended_as(Verdict::lost));
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 2);

    redis.now += 10;
    assert_false(redis.start(six));
    assert_true(redis.written().empty());

    // one that waits ends at its deadline, like any; one that is late is still under way
    redis.pipeline.expire(1100);
    assert_true(one.ended_as(Verdict::unavailable));
    assert_true(three.ended_as(Verdict::unavailable));
    assert_true(five.ended_as(Verdict::unavailable));
    assert_int_equal(six.ends, 0);

    redis.answer(":7\r\n");

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, "EVALSHA"), 2);
    assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);

    redis.answer(":0\r\n");
    assert_non_null(redis.pipeline.fault());
    redis.pipeline.close();
    assert_true(six.ended_as(Verdict::unavailable));
}

void what_waits_for_room_goes_to_the_next_connection(void **)
{
    RedisManner manner = Harness::manner_of_tests();

    manner.most_in_flight = 1;

    Harness redis(manner);
    TestCall one(Call::Kind::claim, 'a'), two(Call::Kind::claim, 'b'), three(Call::Kind::claim, 'c');

    redis.greet();
    redis.send(one);
    assert_true(redis.send(two).empty());
    redis.pipeline.close();
    assert_true(one.ended_as(Verdict::unavailable));
    assert_int_equal(two.ends, 0);

    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.start(three);
    redis.answer(kPong);
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.answer(":5\r\n");
    assert_true(two.ended_as(Verdict::claimed));
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);
    redis.answer(":6\r\n");
    assert_true(three.ended_as(Verdict::claimed));
}

RedisManner manner_with_replicas()
{
    RedisManner manner = Harness::manner_of_tests();

    manner.replicas = 2;
    manner.replica_wait = 50;
    return manner;
}

const std::string kWait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$2\r\n50\r\n";

bool ends_with(const std::string &text, const std::string &end)
{
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A connection on which there have been replicas enough.
void greet_with_replicas(Harness &redis)
{
    TestCall claim(Call::Kind::claim, 'z');

    redis.greet();

    // as long as that is not known
    assert_int_equal(count_of(redis.send(claim), "WAIT"), 0);
    redis.answer(":1\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.answer(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

void what_changes_a_key_waits_for_the_replicas(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'), found(Call::Kind::claim, 'c'),
        lost(Call::Kind::settle, 'd'), release(Call::Kind::release, 'e');
    Lease lease;

    greet_with_replicas(redis);

    // nobody waits for what these come to
    redis.pipeline.renew(&lease, 1, redis.now);
    redis.start(release);
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.answer(":1\r\n:1\r\n");
    assert_true(release.ended_as(Verdict::done));

    // one for all
    for (TestCall *call : {&claim, &settle, &found, &lost}) {
        assert_false(redis.start(*call));
    }

    std::string bytes = redis.written();

    assert_true(ends_with(bytes, kWait));
    assert_int_equal(count_of(bytes, "WAIT"), 1);

    redis.answer(":7\r\n:1\r\n" + found_answer("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_int_equal(claim.ends + settle.ends, 0);
    assert_false(redis.pipeline.idle());

    redis.answer(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(claim.reply.token == 7);
    assert_true(settle.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "");
}

// With too few replicas each one blocks the connection: they must not add up.
void one_wait_is_under_way_at_a_time(void **)
{
    Harness redis(manner_with_replicas());
    TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::claim, 'b'), third(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    assert_int_equal(count_of(redis.send(first), "WAIT"), 1);
    assert_int_equal(count_of(redis.send(second), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(third), "WAIT"), 0);

    redis.answer(":5\r\n:3\r\n:6\r\n");
    assert_true(first.ended_as(Verdict::claimed));
    assert_int_equal(second.ends, 0);
    assert_true(redis.written() == kWait);

    redis.answer(":1\r\n");
    assert_int_equal(third.ends, 0);
    redis.answer(":2\r\n");
    assert_true(second.ended_as(Verdict::claimed));
    assert_true(second.reply.token == 6);
    assert_true(third.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

void a_claim_that_too_few_replicas_have_is_taken_back(void **)
{
    const struct {
        const char *answer;
        const char *error;
    } cases[] = {
        {":1\r\n", "WAIT NOREPLICAS;"},
        {":-1\r\n", "WAIT NOREPLICAS;"},
        {"-NOPERM this user has no permissions to run the 'wait' command\r\n", "WAIT NOPERM;"},
        {"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n", "WAIT UNBLOCKED;"},
    };

    for (const auto &each : cases) {
        Harness redis(manner_with_replicas());
        TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b');

        greet_with_replicas(redis);
        redis.start(claim);
        redis.start(settle);
        redis.written();
        redis.answer(":258\r\n:1\r\n");
        redis.answer(each.answer);
        assert_true(claim.ended_as(Verdict::unavailable));
        assert_true(claim.reply.token == 0);
        assert_true(settle.ended_as(Verdict::unavailable));
        assert_string_equal(redis.errors.c_str(), each.error);

        // its token, and nobody else's; no WAIT for that
        std::string bytes = redis.written();

        assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
        assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));
        redis.answer(":1\r\n");
        assert_true(redis.pipeline.idle());
        assert_null(redis.pipeline.fault());
    }
}

void that_replicas_are_too_few_for_nothing_is_not_told(void **)
{
    Harness redis(manner_with_replicas());
    TestCall found(Call::Kind::claim, 'a'), claim(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.start(found);
    redis.start(claim);
    redis.written();
    redis.answer(found_answer("value", 9) + kNoScript + ":0\r\n");
    assert_string_equal(redis.errors.c_str(), "");

    // the script was sent again: so is the WAIT, when there is something to wait for
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.answer(":7\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.answer(":4\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

void a_call_that_is_held_ends_at_its_deadline(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'), later(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.now += 30;
    redis.start(later);
    redis.written();
    redis.answer(":258\r\n:1\r\n:1\r\n");
    assert_true(redis.pipeline.next_deadline() == 1100);

    redis.pipeline.expire(1100);
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(settle.ended_as(Verdict::unavailable));
    assert_int_equal(later.ends, 0);
    assert_null(redis.pipeline.fault());

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
    assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));

    // now they have it, which is too late for the two
    redis.answer(":2\r\n:1\r\n");
    assert_true(later.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_int_equal(claim.ends, 1);
}

void is_released_next(Harness &redis)
{
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.answer(kPong);

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, "EVALSHA"), 1);
    assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
    assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));
}

// A release is owed to a claim whoever is on the other side by then.
void a_claim_that_is_held_as_the_connection_ends_is_taken_back(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'), next(Call::Kind::claim, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.written();
    redis.answer(":258\r\n:1\r\n");
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(settle.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.idle());
    redis.pipeline.give_up();

    is_released_next(redis);
    redis.answer(":1\r\n");
    assert_true(redis.pipeline.idle());

    // the new connection has a WAIT of its own
    redis.send(next);
    redis.answer(":9\r\n");
    assert_true(redis.written() == kWait);
    redis.pipeline.close();
    assert_true(next.ended_as(Verdict::unavailable));

    // by then its lease has ended
    redis.now += kTimeout + next.lifetime;
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.answer(kPong);
    assert_true(redis.written().empty());
}

void a_release_is_owed_until_it_is_done(void **)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    redis.answer(":258\r\n");
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);

    // the connection ends before the answer; the next one is to a replica
    redis.pipeline.close();
    redis.pipeline.give_up();
    is_released_next(redis);
    redis.answer("-READONLY You can't write against a read only replica.\r\n");
    redis.pipeline.close();
    is_released_next(redis);

    // late, and it has lost its scripts
    redis.pipeline.close();
    is_released_next(redis);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    assert_true(redis.pipeline.stalled());
    redis.answer(kNoScript);
    assert_int_equal(count_of(redis.written(), "$4\r\nEVAL\r\n"), 1);

    // what Redis refuses for another reason it would refuse again
    redis.answer("-NOPERM no\r\n");
    redis.pipeline.close();
    redis.greet();
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "release READONLY key;release NOPERM key;");
}

void a_wait_that_is_not_answered_is_a_stall(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), refused(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.answer(":258\r\n");
    redis.now = 1150;
    redis.pipeline.expire(redis.now);
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.stalled());
    assert_true(redis.start(refused));

    Millis end = redis.pipeline.next_deadline();

    // that of the release, behind a WAIT of whatever length
    assert_true(end == 1150 + kTimeout + 50);
    redis.written();
    redis.pipeline.expire(1450);
    assert_non_null(redis.pipeline.fault());
}

void a_wait_is_answered_with_a_number(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.answer(":258\r\n+OK\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_int_equal(claim.ends, 0);
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.idle());
}

// The release of a claim that was granted off the slot's own node, too.
void what_was_asked_for_is_taken_back_there(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a');

    greet_with_replicas(redis);
    assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));
    redis.written();
    redis.answer("+OK\r\n:7\r\n:0\r\n");
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_int_equal(redis.written().rfind("*1\r\n$6\r\nASKING\r\n*5\r\n", 0), 0);
    redis.answer("+OK\r\n:1\r\n");
    assert_true(redis.pipeline.idle());
}

void a_call_may_start_another_when_the_replicas_have_it(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'a');

    current = &redis;
    another = &settle;
    claim.then = [](TestCall &ended) {
        another->token = ended.reply.token;
        assert_false(current->start(*another));
    };

    greet_with_replicas(redis);
    redis.send(claim);
    redis.answer(":9\r\n:2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(ends_with(redis.written(), kWait));
    redis.answer(":1\r\n:2\r\n");
    assert_true(settle.ended_as(Verdict::done));
}

// With too few replicas a WAIT takes all of its time: who changes nothing must not stand behind one.
void what_is_found_waits_for_nobody(void **)
{
    Harness redis(manner_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), found(Call::Kind::claim, 'b'), lost(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.answer(":7\r\n:1\r\n");
    assert_true(claim.ended_as(Verdict::unavailable));
    redis.written();
    redis.answer(":1\r\n");

    assert_int_equal(count_of(redis.send(found), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(lost), "WAIT"), 0);
    redis.answer(found_answer("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_true(redis.written().empty());
}

// A Redis that does what the scripts would do, answers when it is told to, and fails as it likes.
class Stranger {
public:
    Stranger(const RedisScripts &scripts, std::mt19937 &random) : scripts_(scripts), random_(random) {}

    // Carries out what has come whole.
    void take(const std::string &bytes)
    {
        input_ += bytes;

        std::vector<std::string> words;

        while (take_command(words)) {
            answers_.push_back(answer(words));
        }
    }

    // Some of the bytes that it has to say.
    std::string say(std::size_t most)
    {
        std::string bytes;

        while (!answers_.empty() && bytes.size() < most) {
            std::string &first = answers_.front().bytes;
            std::size_t n = std::min(most - bytes.size(), first.size());

            bytes += first.substr(0, n);
            first.erase(0, n);

            if (first.empty()) {
                if (answers_.front().token != 0) {
                    told.insert(answers_.front().token);
                }

                answers_.pop_front();
            }
        }

        return bytes;
    }

    void hang_up()
    {
        input_.clear();
        answers_.clear();
    }

    bool is_claimed(Token token) const { return claims_.count(token) != 0; }

    std::set<Token> told;       // claims whose holder could know of it
    bool behaves = false;       // from now on

private:
    struct Answer {
        std::string bytes;
        Token token = 0;
    };

    bool take_command(std::vector<std::string> &words)
    {
        std::size_t at = 0;
        long count = number('*', at);

        words.clear();

        while (count-- > 0) {
            long size = number('$', at);

            if (size < 0 || at + std::size_t(size) + 2 > input_.size()) {
                return false;
            }

            words.push_back(input_.substr(at, std::size_t(size)));
            at += std::size_t(size) + 2;
        }

        input_.erase(0, at);
        return !words.empty();
    }

    long number(char mark, std::size_t &at) const
    {
        std::size_t end = input_.find("\r\n", at);

        if (end == std::string::npos) {
            return -1;
        }

        assert_int_equal(input_[at], mark);

        long n = std::stol(input_.substr(at + 1));

        at = end + 2;
        return n;
    }

    static Token token_in(const std::string &word)
    {
        return wire::get_u64(reinterpret_cast<const unsigned char *>(word.data()));
    }

    Answer answer(const std::vector<std::string> &words)
    {
        if (words[0] == "PING" || words[0] == "ASKING") {
            return {words[0] == "PING" ? kPong : "+OK\r\n"};
        }

        if (words[0] == "WAIT") {
            return {":" + std::to_string(behaves ? 2 : random_() % 3) + "\r\n"};
        }

        unsigned fault = behaves ? 9 : random_() % 20;

        if (fault == 0 && words[0] == "EVALSHA") {
            return {kNoScript};
        }

        if (is(words, RedisScript::release)) {
            return {":" + std::to_string(claims_.erase(token_in(words[4]))) + "\r\n"};
        }

        if (fault <= 2) {
            return {fault == 1 ? "-MOVED 1 host:1\r\n" : "-OOM no\r\n"};
        }

        if (!is(words, RedisScript::claim)) {
            return {":1\r\n"};
        }

        if (fault <= 5) {
            return {fault == 5 ? found_answer(std::string(random_() % 40000, 'v'), 5) : "*2\r\n$2\r\n30\r\n:-2\r\n"};
        }

        Token token = words[6].empty() ? ++last_ : token_in(words[6]);

        claims_.insert(token);
        return {":" + std::to_string(words[6].empty() ? token : 1) + "\r\n", token};
    }

    bool is(const std::vector<std::string> &words, RedisScript script) const
    {
        return words[1] == scripts_.sha(script) || words[1] == script_text(script);
    }

    const RedisScripts &scripts_;
    std::mt19937 &random_;
    std::string input_;
    std::deque<Answer> answers_;
    std::set<Token> claims_;
    Token last_ = 1000;
};

// Whatever happens in whatever order: a claim whose grant was read is its call's, or is released. Every call ends once.
void a_claim_that_was_granted_is_held_or_released(void **)
{
    std::size_t held = 0, released = 0;

    for (unsigned seed = 0; seed < 1000; seed++) {
        std::mt19937 random(seed);
        RedisManner manner = Harness::manner_of_tests();

        manner.inline_limit = 1;
        manner.most_in_flight = seed % 3;
        manner.replicas = seed % 2 * 2;
        manner.replica_wait = 50;

        Harness redis(manner);
        Stranger stranger(redis.scripts, random);
        std::deque<TestCall> calls;
        Token wanted = 1000000;
        auto hand_back = [&] {
            for (Call *&call : {std::ref(redis.redirected_call), std::ref(redis.rerouted_call)}) {
                if (call != nullptr) {
                    call->reply = Reply();
                    call->ended(*call);
                    call = nullptr;
                }
            }
        };
        auto hear = [&](std::size_t most) {
            std::string bytes = stranger.say(most);

            // in pieces: an event that hands a call back is told of before the next one
            for (char byte : bytes) {
                redis.answer({&byte, 1});
                hand_back();
            }
        };
        auto hang_up = [&] {
            redis.pipeline.close();
            stranger.hang_up();

            if (random() % 2 == 0) {
                redis.pipeline.give_up();
            }

            redis.pipeline.open(RedisLogin(), redis.now);
        };

        redis.pipeline.open(RedisLogin(), redis.now);

        for (int step = 0; step < 150; step++) {
            switch (random() % 8) {
            case 0:
            case 1:
            case 2: {
                calls.emplace_back(random() % 4 == 0 ? Call::Kind::settle : Call::Kind::claim, 'a');
                calls.back().token = random() % 3 == 0 ? ++wanted : 0;
                calls.back().lifetime = 1000000;

                if (redis.pipeline.start(calls.back(), redis.now + 1 + random() % kTimeout, random() % 8 == 0)) {
                    calls.pop_back();
                }
                break;
            }

            case 3:
                stranger.take(redis.written());
                break;

            case 4:
            case 5:
                hear(random() % 60);
                break;

            case 6:
                redis.now += random() % 30;
                redis.pipeline.expire(redis.now);
                break;

            default:
                if (random() % 8 == 0) {
                    hang_up();
                }
            }

            if (redis.pipeline.fault() != nullptr) {
                hang_up();
            }
        }

        // Redis comes to itself
        stranger.behaves = true;

        for (int i = 0; i < 10 || !redis.pipeline.idle(); i++) {
            assert_true(i < 1000);
            stranger.take(redis.written());
            hear(~std::size_t(0));
            redis.pipeline.expire(redis.now);

            if (redis.pipeline.fault() != nullptr || i == 5) {
                hang_up();
            }
        }

        assert_true(redis.pipeline.idle());

        std::set<Token> got;

        for (const TestCall &call : calls) {
            assert_int_equal(call.ends, 1);

            if (call.reply.verdict == Verdict::claimed) {
                assert_true(got.insert(call.reply.token).second);
                assert_true(stranger.is_claimed(call.reply.token));
            }
        }

        for (Token token : stranger.told) {
            assert_int_equal(stranger.is_claimed(token), got.count(token));
        }

        held += got.size();
        released += stranger.told.size() - got.size();
    }

    // that it comes to what it is about
    print_message("%zu held, %zu released\n", held, released);
    assert_true(held > 3000 && released > 1000);
}

}  // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(calls_wait_for_the_greeting),
        cmocka_unit_test(a_refused_greeting_is_a_fault_and_sends_nothing),
        cmocka_unit_test(a_connection_that_is_left_ends_what_it_has_begun),
        cmocka_unit_test(a_master_is_greeted_where_one_is_wanted),
        cmocka_unit_test(an_error_is_named_without_its_text),
        cmocka_unit_test(a_command_that_is_forbidden_in_a_script_is_named),
        cmocka_unit_test(answers_go_to_their_calls_in_order),
        cmocka_unit_test(a_value_without_room_is_unavailable),
        cmocka_unit_test(a_key_without_expiry_is_found),
        cmocka_unit_test(a_claim_may_want_its_token),
        cmocka_unit_test(a_large_value_is_told_of_and_not_sent),
        cmocka_unit_test(a_large_value_is_fetched_for_itself),
        cmocka_unit_test(a_value_that_is_large_no_more_is_claimed_again),
        cmocka_unit_test(what_comes_of_a_fetch_otherwise),
        cmocka_unit_test(large_pieces_are_sent_in_place),
        cmocka_unit_test(a_late_answer_is_read_and_dropped),
        cmocka_unit_test(a_claim_that_is_granted_late_is_released),
        cmocka_unit_test(half_an_answer_does_not_outlive_its_call),
        cmocka_unit_test(half_a_value_does_not_outlive_its_call),
        cmocka_unit_test(a_stall_ends_with_the_connection),
        cmocka_unit_test(what_could_not_be_written_in_time_is_not_left_half_written),
        cmocka_unit_test(a_waiting_call_ends_at_its_deadline),
        cmocka_unit_test(a_missing_script_is_sent_along),
        cmocka_unit_test(a_script_is_sent_along_once),
        cmocka_unit_test(a_late_command_is_not_sent_again),
        cmocka_unit_test(garbage_ends_everything),
        cmocka_unit_test(an_answer_that_nobody_asked_for_is_garbage),
        cmocka_unit_test(an_answer_before_its_command_is_garbage),
        cmocka_unit_test(half_an_answer_is_nothing),
        cmocka_unit_test(a_call_may_start_another_from_its_end),
        cmocka_unit_test(renewals_share_commands),
        cmocka_unit_test(a_renewal_is_for_one_key_where_there_are_slots),
        cmocka_unit_test(a_redirected_call_is_handed_over),
        cmocka_unit_test(a_redirection_without_a_target_is_an_error),
        cmocka_unit_test(a_late_redirection_is_dropped),
        cmocka_unit_test(asking_comes_before_each_command),
        cmocka_unit_test(an_asking_is_answered_with_a_status_after_it_was_sent),
        cmocka_unit_test(no_more_than_so_many_are_under_way),
        cmocka_unit_test(what_waits_for_room_goes_to_the_next_connection),
        cmocka_unit_test(what_changes_a_key_waits_for_the_replicas),
        cmocka_unit_test(one_wait_is_under_way_at_a_time),
        cmocka_unit_test(a_claim_that_too_few_replicas_have_is_taken_back),
        cmocka_unit_test(that_replicas_are_too_few_for_nothing_is_not_told),
        cmocka_unit_test(what_is_found_waits_for_nobody),
        cmocka_unit_test(a_call_that_is_held_ends_at_its_deadline),
        cmocka_unit_test(a_claim_that_is_held_as_the_connection_ends_is_taken_back),
        cmocka_unit_test(a_release_is_owed_until_it_is_done),
        cmocka_unit_test(a_wait_that_is_not_answered_is_a_stall),
        cmocka_unit_test(a_wait_is_answered_with_a_number),
        cmocka_unit_test(what_was_asked_for_is_taken_back_there),
        cmocka_unit_test(a_call_may_start_another_when_the_replicas_have_it),
        cmocka_unit_test(a_claim_that_was_granted_is_held_or_released),
    };

    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
