// An exception thrown and caught two frames above, through templates, lambdas and destructors.
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>

namespace shop {

struct Guard {
    explicit Guard(const char *name) : name_(name) {}
    __attribute__((noinline)) ~Guard() { std::fputs(name_, stdout); }
    const char *name_;
};

template <typename T> struct Shelf {
    __attribute__((noinline)) T take(const T &wanted)
    {
        Guard guard("left\n");
        if (wanted == T())
            throw std::runtime_error("there is none");
        return wanted + wanted;
    }
};

__attribute__((noinline)) int serve(const std::function<int(int)> &ask, int what)
{
    Guard guard("served\n");
    return ask(what) + 1;
}

} // namespace shop

int main(int argc, char **)
{
    shop::Shelf<int> shelf;
    try {
        return shop::serve([&](int what) { return shelf.take(what); }, argc - 1);
    } catch (const std::exception &error) {
        std::puts(error.what());
    }
    return 0;
}
