#include "cmocka.h"

#include <string>

#include "core/grpc.h"

using namespace idempotency;

namespace {

std::string frame(char flag, const std::string &content)
{
    std::string head(5, flag);

    for (int i = 0; i < 4; i++) {
        head[std::size_t(4 - i)] = static_cast<char>(content.size() >> (8 * i));
    }
    return head + content;
}

std::string message(std::size_t size) { return frame('\0', std::string(size, 'x')); }

std::string base64(const std::string &bytes)
{
    const char *alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;

    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        unsigned group = 0;

        for (std::size_t i = at; i < at + 3; i++) {
            group = group << 8 | (i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0u);
        }
        for (std::size_t i = 0; i < 4; i++) {
            out += i <= bytes.size() - at ? alphabet[group >> (18 - 6 * i) & 63] : '=';
        }
    }
    return out;
}

// What is read is the same for all pieces of the bytes.
void expect(const std::string &bytes, unsigned begun, int status = kNoGrpcStatus,
            bool is_base64 = false)
{
    for (std::size_t step = 1; step <= bytes.size(); step++) {
        GrpcMessages messages{};

        messages.is_base64 = is_base64;
        for (std::size_t at = 0; at < bytes.size(); at += step) {
            messages.feed(std::string_view(bytes).substr(at, step));
        }
        assert_int_equal(messages.begun, begun);
        assert_int_equal(messages.status(), status);
    }
}

UNIT_TEST(messages_are_counted)
{
    expect(message(300), 1);
    expect(message(0), 1);
    expect(message(0) + message(0), 2);
    expect(message(7) + message(258), 2);
    expect(message(7) + message(258).substr(0, 262), 2);
    expect(message(7) + "\1", 2);
    expect(message(70000).substr(0, 600), 1);
}

UNIT_TEST(the_trailer_frame_of_grpc_web_is_no_message)
{
    std::string trailers =
        frame('\x80', "x-grpc-status:3\r\nGrpc-Status: 14\r\ngrpc-message:5\r\n");

    expect(trailers, 0, 14);
    expect(message(7) + trailers, 1, 14);
    expect(message(7) + message(0) + trailers, 2, 14);
    expect(frame('\x81', "grpc-status:0"), 0, 0);
    expect(frame('\x80', "grpc-message: grpc-status: 3"), 0);
    expect(frame('\0', "grpc-status: 3\r\n"), 1);
}

UNIT_TEST(base64_of_grpc_web_text_is_decoded)
{
    std::string trailers = frame('\x80', "grpc-status:7\r\n");

    for (std::size_t size : {0, 1, 2, 3, 258}) {
        expect(base64(message(size)) + base64(trailers), 1, 7, true);
        expect(base64(message(size) + trailers), 1, 7, true);
    }
    expect(base64(message(5)) + base64(message(6)), 2, kNoGrpcStatus, true);
}

UNIT_TEST(media_types_and_statuses)
{
    assert_int_equal(int(grpc_kind("application/grpc")), int(GrpcKind::http2));
    assert_int_equal(int(grpc_kind("Application/GRPC+proto; x=y")), int(GrpcKind::http2));
    assert_int_equal(int(grpc_kind("application/grpc-web+proto")), int(GrpcKind::web));
    assert_int_equal(int(grpc_kind("application/grpc-web-text")), int(GrpcKind::web_text));
    assert_int_equal(int(grpc_kind("application/json")), int(GrpcKind::none));
    assert_int_equal(int(grpc_kind("")), int(GrpcKind::none));

    assert_int_equal(grpc_status_of_name("OK"), 0);
    assert_int_equal(grpc_status_of_name("UNAVAILABLE"), 14);
    assert_int_equal(grpc_status_of_name("UNAUTHENTICATED"), 16);
    assert_int_equal(grpc_status_of_name("unavailable"), kNoGrpcStatus);

    assert_int_equal(parse_grpc_status("14"), 14);
    for (const char *bad : {"", "x", "1234", "-1"}) {
        assert_int_equal(parse_grpc_status(bad), kNoGrpcStatus);
    }

    for (int status = 0; status < kGrpcStatuses; status++) {
        assert_int_equal(is_unknown_outcome(status), status == 1 || status == 4);
    }
}

}  // namespace
