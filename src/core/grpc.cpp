#include "core/grpc.h"

namespace idempotency {

namespace {

constexpr std::uint32_t kHeadSize = 5;

}  // namespace

void GrpcMessages::feed(std::string_view bytes)
{
    while (!bytes.empty()) {
        if (left > 0) {
            std::size_t n = bytes.size() < left ? bytes.size() : left;

            left -= static_cast<std::uint32_t>(n);
            bytes.remove_prefix(n);
            whole += left == 0 ? 1 : 0;
            continue;
        }

        if (head_read == 0) {
            begun++;
        }

        std::uint32_t byte = static_cast<unsigned char>(bytes.front());

        bytes.remove_prefix(1);
        length = head_read == 0 ? 0 : length << 8 | byte;
        head_read++;

        if (head_read == kHeadSize) {
            head_read = 0;
            left = length;
            whole += left == 0 ? 1 : 0;
        }
    }
}

}  // namespace idempotency
