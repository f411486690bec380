// cxx_tour: uses much of libstdc++ a little, and prints what came of it.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <complex>
#include <deque>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <list>
#include <locale>
#include <map>
#include <memory>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <unordered_map>
#include <vector>

struct base {
    virtual ~base() = default;
};
struct derived : base {};
struct other : virtual base {};

static void thrower(int what)
{
    if (what == 0)
        throw std::out_of_range("range");
    if (what == 1)
        throw std::system_error(std::make_error_code(std::errc::invalid_argument), "system");
    if (what == 2)
        (void)std::string("abc").at(7);
    if (what == 3)
        (void)std::stoi("no number");
    if (what == 4)
        throw 42;
    base *b = new derived;
    std::unique_ptr<base> owner(b);
    (void)dynamic_cast<other &>(*b);
}

int main()
{
    std::cout << std::setw(8) << 42 << std::hex << std::showbase << 255 << std::oct << 8 << std::dec
              << '\n' << std::fixed << std::setprecision(3) << 3.14159 << ' ' << std::scientific
              << 12345.678 << ' ' << std::hexfloat << 1.5 << std::defaultfloat << ' ' << true << ' '
              << std::boolalpha << false << ' ' << 1.5L << ' ' << std::left << std::setw(6) << "ab"
              << std::internal << std::setfill('*') << std::setw(8) << -7 << '\n';
    std::istringstream in("12 0x1f 2.5 word true -9 1e3 Z");
    int i = 0, x = 0;
    double d = 0, e = 0;
    std::string word;
    bool flag = false;
    long l = 0;
    char c = 0;
    in >> i >> std::hex >> x >> std::dec >> d >> word >> std::boolalpha >> flag >> l >> e >> c;
    std::cout << i << ' ' << x << ' ' << d << ' ' << word << ' ' << flag << ' ' << l << e << c << '\n';

    std::map<std::string, int> counts;
    for (const char *w : {"pear", "fig", "apple", "fig", "plum", "date", "apple", "fig"})
        counts[w]++;
    for (auto &[name, count] : counts)
        std::cout << name << '=' << count << ' ';
    counts.erase("fig");
    std::set<int> numbers;
    for (int k = 0; k < 50; k++)
        numbers.insert(k * 7919 % 101);
    for (int k = 0; k < 50; k += 3)
        numbers.erase(k);
    std::unordered_map<std::string, int> hashed;
    for (int k = 0; k < 40; k++)
        hashed[std::to_string(k * k)] = k;
    std::list<int> list{5, 3, 9, 1};
    list.sort();
    list.reverse();
    std::vector<std::string> words{"zeta", "alpha", "mid"};
    std::sort(words.begin(), words.end());
    std::stable_sort(words.begin(), words.end(), std::greater<>());
    std::cout << counts.size() << ' ' << numbers.size() << ' ' << hashed["81"] << ' ' << list.front()
              << ' ' << words[0] << '\n';

    std::string text = "the quick brown fox";
    text.insert(4, "very ").append(3, '!').replace(0, 3, "THE");
    text.erase(0, 1);
    std::cout << text << text.find("fox") << text.rfind('q') << text.find_first_of("xyz")
              << text.find_last_not_of('!') << text.substr(3, 5) << text.compare("abc") << '\n';
    std::wstring wide = L"wide";
    wide += L" text";
    std::cout << wide.size() << wide.find(L"text") << '\n';

    std::regex expression("([a-z]+)-([0-9]+)");
    std::smatch match;
    std::string subject = "item-42 other-7";
    while (std::regex_search(subject, match, expression)) {
        std::cout << match[1] << ':' << match[2] << ' ';
        subject = match.suffix();
    }
    std::cout << std::regex_replace(std::string("a-1 b-2"), expression, "$2$1") << '\n';

    std::ostringstream out;
    out.imbue(std::locale::classic());
    out << std::put_time(std::gmtime(&static_cast<const std::time_t &>(1234567890)), "%A %d %B %Y %T")
        << ' ' << std::put_money("1234") << ' ' << std::quoted("q\"q");
    std::cout << out.str() << '\n';
    std::istringstream dates("2001-02-03");
    std::tm broken{};
    dates >> std::get_time(&broken, "%Y-%m-%d");
    std::cout << broken.tm_year << ' ' << std::toupper('a', std::locale::classic())
              << std::use_facet<std::collate<char>>(std::locale::classic()).hash("a", "a") % 97 << '\n';
    for (int what = 0; what < 6; what++)
        try {
            thrower(what);
        } catch (const std::exception &error) {
            std::cout << error.what() << '\n';
        } catch (int number) {
            std::cout << number << '\n';
        }
    std::mt19937 random(5);
    std::stringstream both;
    both << std::uniform_int_distribution<int>(0, 99)(random) << ' ' << std::complex<double>(1, 2);
    std::cout << both.str() << ' ' << std::stod("2.5e3") << ' ' << std::to_string(1.25) << '\n';
    char digits[40];
    auto end = std::to_chars(digits, digits + 40, 3.25e-7).ptr;
    double back = 0;
    std::from_chars(digits, end, back);
    std::cout << std::string(digits, end) << ' ' << back << '\n';
    std::ifstream file("/etc/hostname-that-is-not-there");
    std::cout << file.is_open() << file.good() << '\n';
    auto shared = std::make_shared<int>(3);
    std::weak_ptr<int> weak = shared;
    std::deque<int> deque(30, 1);
    deque.push_front(2);
    std::function<int(int)> twice = [](int a) { return a * 2; };
    std::cout << weak.use_count() << deque.size() << twice(4) << std::endl;
    return 4;
}
