#include "cmocka.h"

#include "bytes.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/key_file.h"

using namespace idempotency;

namespace {

UNIT_TEST(key_files_are_read)
{
    const std::string raw = counting(32, 0x70);
    const std::string hex = hex_of(raw);
    const std::string base64 = "cHFyc3R1dnd4eXp7fH1+f4CBgoOEhYaHiImKi4yNjo8=";
    std::string upper = hex;

    std::transform(hex.begin(), hex.end(), upper.begin(),
                   [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });

    for (const std::string &file :
         {raw, hex, hex + "\n", hex + "\r\n", upper, base64, base64 + "\n"}) {
        Secret secret;

        assert_null(parse_key_file(file, secret));
        assert_true(std::string(secret.bytes.begin(), secret.bytes.end()) == raw);
    }

    const std::string bad[] = {
        "",
        "\n",
        "secret",
        raw + "x",
        raw.substr(1),
        hex + "\n\n",
        hex + " ",
        " " + hex,
        hex + hex,
        hex.substr(1),
        hex.substr(1) + "g",
        hex.substr(1) + "\n",
        base64.substr(1),
        base64.substr(0, 43),
        base64.substr(0, 42) + "==",
        base64.substr(0, 43) + "A",
        "!" + base64.substr(1),
        base64 + "=",
        // 16 bytes in hexadecimal, a password, a password with the end of its line
        hex.substr(32),
        "correct horse battery staple....",
        "correct horse battery staple...\n",
    };

    for (const std::string &file : bad) {
        Secret secret;
        const char *fault = parse_key_file(file, secret);

        assert_non_null(fault);
        assert_non_null(std::strstr(fault, "openssl rand -hex 32"));
    }
}

}  // namespace
