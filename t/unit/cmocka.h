// cmocka, which needs some headers before itself and C linkage, and the main() of a test program: it runs all tests of the one source
// file that the program has.

#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <vector>

namespace idempotency {

// The tests of this program, in the order in which they are defined.
struct UnitTests {
    static UnitTests &all()
    {
        static UnitTests tests;

        return tests;
    }

    // A test registers itself where it is defined.
    struct Registration {
        Registration(const char *name, CMUnitTestFunction test)
        {
            all().tests.push_back({name, test, nullptr, nullptr, nullptr});
        }
    };

    // What runs before and after all tests.
    struct Group {
        Group(CMFixtureFunction setup, CMFixtureFunction teardown)
        {
            all().setup = setup;
            all().teardown = teardown;
        }
    };

    std::vector<CMUnitTest> tests;
    CMFixtureFunction setup = nullptr;
    CMFixtureFunction teardown = nullptr;
};

#define UNIT_TEST(name)                                                                            \
    void name(void **);                                                                            \
    const idempotency::UnitTests::Registration register_##name(#name, name);                       \
    void name([[maybe_unused]] void **state)

}  // namespace idempotency

int main()
{
    const auto &all = idempotency::UnitTests::all();

    return _cmocka_run_group_tests("tests", all.tests.data(), all.tests.size(), all.setup,
                                   all.teardown);
}
