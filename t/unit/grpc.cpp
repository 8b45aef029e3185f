#include "cmocka.h"

#include <string>

#include "core/grpc.h"

using namespace idempotency;

namespace {

std::string message(std::size_t size)
{
    std::string head(5, '\0');

    for (int i = 0; i < 4; i++) {
        head[std::size_t(4 - i)] = static_cast<char>(size >> (8 * i));
    }
    return head + std::string(size, 'x');
}

// The messages are the same for all pieces of the bytes.
void expect(const std::string &bytes, unsigned begun, unsigned whole)
{
    for (std::size_t step = 1; step <= bytes.size(); step++) {
        GrpcMessages messages{};

        for (std::size_t at = 0; at < bytes.size(); at += step) {
            messages.feed(std::string_view(bytes).substr(at, step));
        }
        assert_int_equal(messages.begun, begun);
        assert_int_equal(messages.whole, whole);
    }
}

UNIT_TEST(messages_are_counted)
{
    expect(message(300), 1, 1);
    expect(message(0), 1, 1);
    expect(message(0) + message(0), 2, 2);
    expect(message(7) + message(258), 2, 2);
    expect(message(7) + message(258).substr(0, 262), 2, 1);
    expect(message(7) + "\1", 2, 1);
    expect(message(70000).substr(0, 600), 1, 0);
}

}  // namespace
