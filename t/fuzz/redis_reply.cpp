// What comes back over a connection to Redis, with commands of every kind in
// flight.  The input says what is started, what time passes, and which bytes
// are read in which pieces.

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fuzz.h"
#include "redis/protocol/pipeline.h"

using namespace idempotency;

namespace {

constexpr Millis kTimeout = 100;
constexpr std::size_t kMostCalls = 64;
constexpr std::size_t kLargestRoom = 1 << 16;

// A call as its owner keeps it: what it gave is gone once it has ended.
struct FuzzCall : Call {
    FuzzCall(std::uint64_t choice)
    {
        static constexpr Kind kinds[] = {Kind::claim, Kind::settle, Kind::release, Kind::renew};

        kind = kinds[choice & 3];
        id.bytes.fill(static_cast<unsigned char>(choice >> 2));
        token = choice;
        lifetime = 1000;
        bytes.reset(new char[kBytes]());
        piece = {bytes.get(), (choice & 0x80) != 0 ? kBytes : 80};
        value = {&piece, 1};

        claim.bytes.fill(static_cast<unsigned char>(choice >> 4));

        allocate_value = [](Call &call, std::size_t size) -> char * {
            auto &self = static_cast<FuzzCall &>(call);

            EXPECT(self.kind == Kind::claim && !self.over && !self.place);
            if (size > kLargestRoom) {
                return nullptr;
            }
            self.place.reset(new char[size]);
            self.place_size = size;
            return self.place.get();
        };

        ended = [](Call &call) { static_cast<FuzzCall &>(call).end(); };
    }

    void end()
    {
        EXPECT(!over);
        over = true;

        switch (reply.verdict) {
        case Verdict::claimed:
            EXPECT(kind == Kind::claim && reply.token > 0 && reply.value.empty());
            break;
        case Verdict::found:
            EXPECT(kind == Kind::claim && reply.value.size() == place_size);
            EXPECT(reply.value.empty() || reply.value.data() == place.get());
            break;
        case Verdict::done:
        case Verdict::lost:
            EXPECT(kind != Kind::claim && reply.value.empty());
            break;
        case Verdict::gone:
            EXPECT(kind == Kind::renew);
            break;
        case Verdict::refused:
            EXPECT(kind == Kind::settle);
            break;
        case Verdict::unavailable:
            EXPECT(reply.value.empty() && reply.token == 0);
            break;
        case Verdict::unreadable:
            EXPECT(kind == Kind::claim && reply.value.empty() && reply.token == 0);
            break;
        case Verdict::full:
            EXPECT(false);
        }

        bytes.reset();
        place.reset();
    }

    static constexpr std::size_t kBytes = 5000;

    std::unique_ptr<char[]> bytes;
    std::unique_ptr<char[]> place;
    std::size_t place_size = 0;
    std::string_view piece;
    bool over = false;
};

class Harness : RedisPipeline::Events {
public:
    Harness(const RedisScripts &scripts, std::uint64_t choice)
        : pipeline_(scripts, options(choice), *this)
    {}

    ~Harness()
    {
        pipeline_.close();
        pipeline_.end_waiting();
        EXPECT(pipeline_.idle() && !pipeline_.stalled());
        for (const auto &call : calls_) {
            EXPECT(call->over);
        }
    }

    // One step; false where the input has come to its end.
    bool step(fuzz::Steering &steering)
    {
        if (steering.done()) {
            return false;
        }

        std::uint64_t choice = steering.number(1);

        switch (choice % 8) {
        case 0:
            start(steering.number(2));
            break;
        case 1:
            write(steering.number(2));
            break;
        case 2:
        case 3:
            now_ += steering.number(1);
            pipeline_.expire(now_);
            EXPECT(pipeline_.fault() != nullptr || pipeline_.next_deadline() > now_);
            break;
        case 4:
            reconnect();
            break;
        case 5:
            answer(canned(steering.number(1)));
            break;
        case 6:
            answer(std::string(steering.number(2), 'v'));
            break;
        default:
            write(~std::size_t(0));
            answer(steering.text(choice >> 3));
        }

        return true;
    }

    void reconnect()
    {
        pipeline_.close();
        EXPECT(pipeline_.fault() == nullptr && !pipeline_.ready());
        pipeline_.open(login_, now_);
        write(~std::size_t(0));
        answer("+PONG\r\n");
        EXPECT(pipeline_.ready());
    }

private:
    static RedisPipelineOptions options(std::uint64_t choice)
    {
        RedisPipelineOptions options;

        options.inline_limit = (choice & 2) != 0 ? 1000 : 0;
        options.max_in_flight = choice >> 2 & 3;
        options.replicas = choice >> 4 & 1;
        options.replica_wait = choice >> 5;
        options.prefix = "fuzz:";
        options.timeout = kTimeout;
        return options;
    }

    void greeted() override {}

    void redirected(Call &call, Millis, const RedisRedirect &redirect) override
    {
        expect_valid(redirect);
        hand_back(call);
    }

    void rerouted(Call &call, Millis) override { hand_back(call); }

    static void expect_valid(const RedisRedirect &redirect)
    {
        EXPECT(redirect.slot < kRedisSlots && redirect.port != 0);
        EXPECT(redirect.host.size() <= kMaxRedisHost);
    }

    static void hand_back(Call &call)
    {
        call.reply = Reply();
        call.ended(call);
    }

    void error_reply(const char *what, const char *code, const KeyId *, const char *) override
    {
        EXPECT(std::strlen(what) > 0);
        EXPECT(std::strlen(code) > 0 && std::strlen(code) < sizeof(ServerReply::code));
        for (const char *c = code; *c != '\0'; c++) {
            EXPECT((*c >= 'A' && *c <= 'Z') || *c == '_');
        }
    }

    static std::string_view canned(std::uint64_t choice)
    {
        static constexpr std::string_view answers[] = {
            ":1\r\n",
            ":0\r\n",
            ":1700000000000001\r\n",
            "*2\r\n$3\r\nabc\r\n:5\r\n",
            "-NOSCRIPT No matching script.\r\n",
            "-OOM command not allowed\r\n",
            "*2\r\n$-1\r\n",
            "*2\r\n$20\r\n01234567890123456789\r\n:-1\r\n",
            ":-1\r\n",
            "-ERR Protocol error: invalid bulk length\r\n",
            "-MOVED 1 host:1\r\n",
            "-ASK 2 ::1:2\r\n",
            "+OK\r\n",
            "*2\r\n$20000\r\n",
            "\r\n:7\r\n",
            ":-1001\r\n",
            ":-9223372036854775808\r\n",
            "-WRONGTYPE Operation against a key\r\n",
        };

        return answers[choice % std::size(answers)];
    }

    void start(std::uint64_t choice)
    {
        if (calls_.size() == kMostCalls) {
            return;
        }

        calls_.push_back(std::make_unique<FuzzCall>(choice));

        FuzzCall &call = *calls_.back();
        bool refused = pipeline_.fault() != nullptr || pipeline_.stalled();

        EXPECT(pipeline_.start(call, now_ + kTimeout, (choice & 0x40) != 0) == refused);
        if (refused) {
            EXPECT(!call.reply.sent);
            call.end();
        }
    }

    // Reads what it writes: a piece that is gone shows under AddressSanitizer.
    void write(std::size_t most)
    {
        iovec pieces[4];

        while (std::size_t n = pipeline_.output(pieces, 4)) {
            std::size_t size = 0;

            for (std::size_t i = 0; i < n && size < most; i++) {
                std::size_t take = std::min(most - size, pieces[i].iov_len);

                EXPECT(take > 0);
                written_ += std::string(static_cast<char *>(pieces[i].iov_base), take).back();
                size += take;
            }

            if (size == 0) {
                return;
            }

            written_.clear();
            pipeline_.wrote(size);
            most -= size;
        }
    }

    void answer(std::string_view bytes)
    {
        // a copy of its own: nothing may hold on to it
        std::unique_ptr<char[]> copy(new char[bytes.size()]);

        std::copy(bytes.begin(), bytes.end(), copy.get());
        pipeline_.input({copy.get(), bytes.size()}, now_);
    }

    RedisLogin login_;
    Millis now_ = 1;
    std::string written_;
    std::vector<std::unique_ptr<FuzzCall>> calls_;
    RedisPipeline pipeline_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    static const RedisScripts scripts;

    fuzz::Steering steering(fuzz::view(data, size));
    Harness harness(scripts, steering.number(1));

    harness.reconnect();

    while (harness.step(steering)) {
    }

    return 0;
}
