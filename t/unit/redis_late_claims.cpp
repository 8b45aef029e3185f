// Whatever Redis does, and whenever the connection ends: a claim that was granted is held or released.

#include "pipeline_harness.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/wire.h"

using namespace idempotency;

namespace {

// A Redis that does what the scripts do, replies when the test asks for it, and fails at random.
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

        while (take_command(words)) {
            answers_.push_back(answer(words));
        }
    }

    // Up to `most` bytes of the replies.
    std::string send_replies(std::size_t most)
    {
        std::string bytes;

        while (!answers_.empty() && bytes.size() < most) {
            std::string &first = answers_.front().bytes;
            std::size_t n = std::min(most - bytes.size(), first.size());

            bytes += first.substr(0, n);
            first.erase(0, n);

            if (first.empty()) {
                if (answers_.front().token != 0) {
                    granted.insert(answers_.front().token);
                }

                answers_.pop_front();
            }
        }

        return bytes;
    }

    void close_connection()
    {
        input_.clear();
        answers_.clear();
    }

    bool is_claimed(Token token) const { return claims_.count(token) != 0; }

    std::set<Token> granted;  // claims whose reply has been read
    bool behaves = false;     // makes no faults from now on

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
            return {fault == 5 ? found_reply(std::string(random_() % 40000, 'v'), 5)
                               : "*2\r\n$2\r\n30\r\n:-2\r\n"};
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
UNIT_TEST(a_claim_that_was_granted_is_held_or_released)
{
    std::size_t held = 0, released = 0;

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
        auto receive = [&](std::size_t most) {
            std::string bytes = fake.send_replies(most);

            // byte by byte: a call that is given back ends before the next event
            for (char byte : bytes) {
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

        redis.pipeline.open(RedisLogin(), redis.now);

        for (int step = 0; step < 150; step++) {
            switch (random() % 8) {
            case 0:
            case 1:
            case 2: {
                calls.emplace_back(random() % 4 == 0 ? Call::Kind::settle : Call::Kind::claim, 'a');
                calls.back().token = random() % 3 == 0 ? ++wanted : 0;
                calls.back().lifetime = 1000000;

                if (redis.pipeline.start(calls.back(), redis.now + 1 + random() % kTimeout,
                                         random() % 8 == 0)) {
                    calls.pop_back();
                }
                break;
            }

            case 3:
                fake.take(redis.written());
                break;

            case 4:
            case 5:
                receive(random() % 60);
                break;

            case 6:
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

        assert_true(redis.pipeline.idle());

        std::set<Token> got;

        for (const TestCall &call : calls) {
            assert_int_equal(call.ends, 1);

            if (call.reply.verdict == Verdict::claimed) {
                assert_true(got.insert(call.reply.token).second);
                assert_true(fake.is_claimed(call.reply.token));
            }
        }

        for (Token token : fake.granted) {
            assert_int_equal(fake.is_claimed(token), got.count(token));
        }

        held += got.size();
        released += fake.granted.size() - got.size();
    }

    // both cases must have occurred often
    print_message("%zu held, %zu released\n", held, released);
    assert_true(held > 3000 && released > 1000);
}

}  // namespace
