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

// A simulated Redis with the effects of the scripts, which replies on command and fails at random.
class Stranger {
public:
    Stranger(const RedisScripts &scripts, std::mt19937 &random) : scripts_(scripts), random_(random) {}

    // Executes the complete commands.
    void take(const std::string &bytes)
    {
        input_ += bytes;

        std::vector<std::string> words;

        while (take_command(words)) {
            answers_.push_back(answer(words));
        }
    }

    // Some of the bytes of its replies.
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

    std::set<Token> told;       // claims whose grant the holder could have received
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
            return {fault == 5 ? found_reply(std::string(random_() % 40000, 'v'), 5) : "*2\r\n$2\r\n30\r\n:-2\r\n"};
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

            // in pieces: an event that returns a call is reported before the next one
            for (char byte : bytes) {
                redis.receive({&byte, 1});
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

        // Redis recovers
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

    // the test has covered the interesting cases
    print_message("%zu held, %zu released\n", held, released);
    assert_true(held > 3000 && released > 1000);
}

}  // namespace
