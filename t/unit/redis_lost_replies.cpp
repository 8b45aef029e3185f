// Whatever Redis does, and whenever the connection ends: what Redis has done for a call is what the call ended as, or the call ended
// as `unavailable` with Reply::sent, so that its caller knows of it.

#include "pipeline_harness.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace idempotency;

namespace {

// A Redis that runs each command as the scripts do, replies when the test asks for it, and fails at random.
class FakeRedis {
public:
    FakeRedis(const RedisScripts &scripts, std::mt19937 &random)
        : scripts_(scripts), random_(random)
    {}

    // Runs the commands that are complete.
    void take(const std::string &bytes)
    {
        input_ += bytes;

        std::vector<std::string> words;

        while (!closing_ && take_command(words)) {
            replies_ += run(words);
        }
    }

    // Up to `most` bytes of the replies.
    std::string send_replies(std::size_t most)
    {
        std::string bytes = replies_.substr(0, most);

        replies_.erase(0, bytes.size());
        return bytes;
    }

    void close_connection()
    {
        input_.clear();
        replies_.clear();
        closing_ = false;
    }

    std::set<std::string> done;  // keys whose command was run and has changed something
    bool behaves = false;        // makes no faults from now on

private:
    bool take_command(std::vector<std::string> &words)
    {
        std::size_t at = 0;
        long count = number('*', at);

        words.clear();

        while (count-- > 0) {
            long size = number('$', at);

            // as Redis does it: before the value has come, and nothing is read any more
            if (size > 1000 && !behaves && is(words, RedisScript::settle) && random_() % 2 == 0) {
                replies_ += "-ERR Protocol error: invalid bulk length\r\n";
                closing_ = true;
                return false;
            }

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

    std::string run(const std::vector<std::string> &words)
    {
        if (words[0] == "PING" || words[0] == "ASKING") {
            return words[0] == "PING" ? kPong : "+OK\r\n";
        }

        if (words[0] == "WAIT") {
            return ":" + std::to_string(behaves ? 2 : random_() % 3) + "\r\n";
        }

        unsigned fault = behaves ? 99 : random_() % 20;

        if (fault == 0 && words[0] == "EVALSHA") {
            return kNoScript;
        }

        if (fault <= 3) {
            return fault == 1   ? "-MOVED 1 host:1\r\n"
                   : fault == 2 ? "-OOM no\r\n"
                                : "-READONLY You can't write against a read only replica.\r\n";
        }

        if (fault <= 6 && is(words, RedisScript::claim)) {
            return fault == 5 ? found_reply(std::string(random_() % 40000, 'v'), 5)
                              : "*2\r\n$2\r\n30\r\n:-2\r\n";
        }

        if (fault <= 6) {
            return is(words, RedisScript::renew) && fault == 6 ? ":-1\r\n" : ":0\r\n";
        }

        assert_true(done.insert(words[3]).second);

        // a proxy, behind which Redis has run the command
        if (fault == 7) {
            return "-ERR Connection timed out\r\n";
        }

        return ":" + std::to_string(is(words, RedisScript::claim) ? ++last_ : 1) + "\r\n";
    }

    bool is(const std::vector<std::string> &words, RedisScript script) const
    {
        return words.size() > 1
               && (words[1] == scripts_.sha(script) || words[1] == script_text(script));
    }

    const RedisScripts &scripts_;
    std::mt19937 &random_;
    std::string input_;
    std::string replies_;
    bool closing_ = false;
    Token last_ = 1000;
};

std::string key_of(const Call &call)
{
    char hex[kHexLength];

    write_hex(call.id, hex);
    return "idm:" + std::string(hex, sizeof(hex));
}

UNIT_TEST(what_redis_has_done_is_known_or_said_to_be_possible)
{
    const std::string large(5000, 'v');
    std::map<std::string, std::size_t> seen;

    for (unsigned seed = 0; seed < 1000; seed++) {
        std::mt19937 random(seed);
        RedisPipelineOptions options = Harness::options_of_tests();

        options.inline_limit = 1;
        options.max_in_flight = seed % 3;
        options.replicas = seed % 2 * 2;
        options.replica_wait = 50;

        Harness redis(options);
        FakeRedis fake(redis.scripts, random);
        std::deque<TestCall> calls;
        auto hand_back = [&] {
            for (Call *&call : {std::ref(redis.redirected_call), std::ref(redis.rerouted_call)}) {
                if (call != nullptr) {
                    call->reply = Reply();
                    call->ended(*call);
                    call = nullptr;
                }
            }
        };
        auto receive = [&](std::size_t most) {
            // byte by byte: a call that is given back ends before the next event
            for (char byte : fake.send_replies(most)) {
                redis.reply({&byte, 1});
                hand_back();
            }
        };
        auto close_connection = [&] {
            redis.pipeline.close();
            fake.close_connection();

            if (random() % 2 == 0) {
                redis.pipeline.end_waiting();
            }

            redis.pipeline.open(RedisLogin(), redis.now);
        };
        auto write_some = [&] {
            iovec piece;

            if (redis.pipeline.output(&piece, 1) == 1) {
                std::size_t n = random() % (piece.iov_len + 1);

                fake.take({static_cast<char *>(piece.iov_base), n});
                redis.pipeline.wrote(n);
            }
        };

        redis.pipeline.open(RedisLogin(), redis.now);

        for (int step = 0; step < 150; step++) {
            switch (random() % 9) {
            case 0:
            case 1:
            case 2: {
                constexpr Call::Kind kinds[] = {Call::Kind::claim, Call::Kind::claim,
                                                Call::Kind::settle, Call::Kind::release,
                                                Call::Kind::renew};

                calls.emplace_back(kinds[random() % 5], 'a');
                calls.back().id.bytes[0] = static_cast<unsigned char>(calls.size());
                calls.back().set_value(random() % 4 == 0 && calls.back().kind == Call::Kind::settle
                                           ? std::string_view(large)
                                           : "value");

                if (redis.pipeline.start(calls.back(), redis.now + 1 + random() % kTimeout,
                                         random() % 8 == 0)) {
                    assert_false(calls.back().reply.sent);
                    calls.pop_back();
                }
                break;
            }

            case 3:
                fake.take(redis.written());
                break;

            case 4:
                write_some();
                break;

            case 5:
            case 6:
                receive(random() % 60);
                break;

            case 7:
                redis.now += random() % 30;
                redis.pipeline.expire(redis.now);
                break;

            default:
                if (random() % 8 == 0) {
                    close_connection();
                }
            }

            if (redis.pipeline.fault() != nullptr) {
                close_connection();
            }
        }

        // Redis makes no faults any more
        fake.behaves = true;

        for (int i = 0; i < 10 || !redis.pipeline.idle(); i++) {
            assert_true(i < 1000);
            fake.take(redis.written());
            receive(~std::size_t(0));
            redis.pipeline.expire(redis.now);

            if (redis.pipeline.fault() != nullptr || i == 5) {
                close_connection();
            }
        }

        for (const TestCall &call : calls) {
            bool is_done = fake.done.count(key_of(call)) != 0;
            const char *known = is_done ? "done" : "not done";

            assert_int_equal(call.ends, 1);

            switch (call.reply.verdict) {
            case Verdict::claimed:
            case Verdict::done:
                assert_true(is_done);
                seen[known]++;
                break;
            case Verdict::unavailable:
                assert_true(call.reply.sent || !is_done);
                seen[std::string(call.reply.sent ? "sent, " : "not sent, ") + known]++;
                break;
            case Verdict::refused:
                assert_true(call.kind == Call::Kind::settle && call.piece.size() == large.size());
                assert_false(is_done);
                seen["refused"]++;
                break;
            default:
                assert_false(is_done);
                seen["lost"]++;
            }
        }
    }

    // all cases must have occurred often
    for (const char *each :
         {"done", "lost", "refused", "sent, done", "sent, not done", "not sent, not done"})
    {
        print_message("%s: %zu\n", each, seen[each]);
        assert_true(seen[each] > 200);
    }
}

}  // namespace
