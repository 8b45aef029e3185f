// What a server tells of itself and of its cluster, in pieces as they come: the map that is read
// of it is a right one, or none.

#include "fuzz.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include <hiredis/hiredis.h>

#include "redis/protocol/query_codec.h"
#include "redis/protocol/slots.h"

using namespace idempotency;

namespace {

constexpr std::size_t kMost = 4096;

class Server final : RedisQueryCodec::Events {
public:
    explicit Server(bool has_password)
    {
        codec_.open("", has_password ? "secret" : "");
        ask();
    }

    void say(std::string_view bytes)
    {
        // a copy of its own: nothing may hold on to it
        std::unique_ptr<char[]> copy(new char[bytes.size()]);

        std::copy(bytes.begin(), bytes.end(), copy.get());
        codec_.input({copy.get(), bytes.size()});

        if (codec_.fault() != nullptr) {
            EXPECT(std::strstr(codec_.fault(), "\n") == nullptr);
            EXPECT(std::strlen(codec_.fault()) < 100);
        }
    }

    bool has_fault() const { return codec_.fault() != nullptr; }

private:
    void ask()
    {
        static constexpr std::string_view words[] = {"CLUSTER", "SLOTS"};

        codec_.send(words, 2);
    }

    void replied(const redisReply &reply) override
    {
        if (map_.read(reply) == nullptr) {
            check();
        }

        ask();
    }

    void check() const
    {
        EXPECT(map_.size() > 0 && map_.size() <= RedisSlotMap::kMaxNodes);

        for (std::size_t slot = 0; slot < kRedisSlots; slot++) {
            EXPECT(map_.owner(slot) == RedisSlotMap::kNoNode || map_.owner(slot) < map_.size());
        }

        for (std::size_t i = 0; i < map_.size(); i++) {
            const RedisEndpoint &node = map_.node(i);

            EXPECT(node.port != 0);
            EXPECT(std::memchr(node.host, '\0', sizeof(node.host)) != nullptr);
        }
    }

    RedisSlotMap map_;
    RedisQueryCodec codec_{kMost, *this};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    fuzz::Steering steering(fuzz::view(data, size));
    Server server(steering.number(1) % 2 == 1);

    while (!steering.done() && !server.has_fault()) {
        server.say(steering.text(steering.number(1)));
    }

    return 0;
}
