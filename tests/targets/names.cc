/* Functions whose mangled names need many rules of the Itanium C++ ABI, chapter 5.1. */
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#define KEEP __attribute__((noinline, used))

namespace outer {
inline namespace v2 {
template <typename T, int N> struct Array {
    T items[N];
    KEEP T &operator[](int i) { return items[i]; }
    KEEP explicit operator bool() const { return N > 0; }
    template <typename U> KEEP operator U *() { return nullptr; }
    KEEP friend bool operator<=(const Array &a, const Array &b) { return a.items[0] <= b.items[0]; }
};
} // namespace v2
namespace {
KEEP int hidden(char) { return 1; }
} // namespace
enum class Colour : unsigned { red, green };
template <Colour C> KEEP int paint() { return static_cast<int>(C); }
template <auto F> KEEP int through(int x) { return F(x); }
template <typename... Ts> KEEP int pack(Ts &&...ts) { return (0 + ... + static_cast<int>(ts)); }
template <template <typename...> class C, typename... Ts> KEEP size_t count(const C<Ts...> &)
{
    return sizeof...(Ts);
}
template <typename T> KEEP auto sum(T a, T b) -> decltype(a + b) { return a + b; }
template <typename T> KEEP typename std::enable_if<(sizeof(T) > 2), T>::type big(T t) { return t; }
} // namespace outer

KEEP int twice(int x) { return 2 * x; }
KEEP long member(int outer::Array<int, 3>::*, long (std::string::*)(char) const volatile &&)
{
    return 2;
}
KEEP void arrays(int (&)[3], const char *const *, void (*)(int, ...), __int128, _Complex double) {}
KEEP int restricted(char *__restrict a, const volatile void *b) noexcept { return a == b; }
[[gnu::abi_tag("tagged")]] KEEP int tagged() { return 3; }
struct Base {
    KEEP virtual ~Base() {}
    KEEP virtual int f() { return 1; }
};
struct Left : virtual Base {
    KEEP int f() override { return 2; }
};
struct Right : virtual Base {};
struct Both : Left, Right {
    KEEP int f() override { return 4; }
};
KEEP void *operator new(std::size_t, int, const Both &) noexcept { return nullptr; }
KEEP long double operator""_km(long double x) { return x * 1000; }

int main()
{
    outer::Array<int, 3> a{{1, 2, 3}};
    std::map<std::string, std::vector<std::unique_ptr<Base>>> table;
    table["x"].push_back(std::make_unique<Both>());
    std::function<int(std::variant<int, std::string>)> f = [&](const auto &v) {
        struct Local {
            KEEP static int call(int x) { return x + 1; }
        };
        return Local::call(static_cast<int>(v.index()));
    };
    auto lambda = [](auto x) { return [x](auto y) KEEP { return x + y; }; };
    std::sort(a.items, a.items + 3, [](int x, int y) { return x > y; });
    int array[3] = {0};
    arrays(array, nullptr, nullptr, 0, 0);
    std::regex expression("a+(b|c)*");
    Left *left = new Both;
    long total = a[0] + bool(a) + (static_cast<char *>(a) == nullptr) + (a <= a)
        + outer::hidden('x') + outer::paint<outer::Colour::green>() + outer::through<twice>(4)
        + outer::pack(1, 2u, 'c', 4L) + static_cast<long>(outer::count(std::tuple<int, char>()))
        + outer::sum(1, 2) + outer::big(5L) + member(nullptr, nullptr) + f(3) + lambda(1)(2L)
        + tagged() + static_cast<long>(1.0_km) + left->f() + restricted(nullptr, nullptr)
        + std::regex_match("abcb", expression);
    delete left;
    return total > 0 ? 0 : 1;
}
