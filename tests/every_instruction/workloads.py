"""Programs at work in the libraries: each with what it is given, and the file that is probed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.build import build_target
from tests.support.copies import libraries_of, real_program

__all__ = ["WORKLOADS", "Workload"]

_SQL: Final = """
create table t(a integer primary key, b text, c real); create index i on t(b);
insert into t values(1,'one',1.5),(2,'two',2.5),(3,'three',null),(4,'two',-1e10);
create table u(a references t, d blob); insert into u select a, zeroblob(a) from t;
select t.a, upper(b), hex(d), typeof(c) from t left join u using(a) where b >= 'one' order by c desc;
select b, count(*), group_concat(a), avg(c) from t group by b having count(*) > 0;
with recursive n(x) as (select 1 union all select x+1 from n where x < 20) select sum(x) from n;
select a, row_number() over (partition by b order by a), lag(a) over (order by a) from t;
select json_extract('{"a":[1,{"b":2}]}','$.a[1].b'), json_group_array(b) from t;
select key, value from json_each('[1,"x",null]');
create virtual table f using fts5(x); insert into f values('hello wide world'),('good bye world');
select x, rank from f where f match 'world hello'; select highlight(f,0,'<','>') from f('bye');
create trigger r after update on t begin insert into u values(new.a, x'00ff'); end;
update t set b = b || '!' where a > 2; delete from t where a = 1; select total_changes();
begin; savepoint s; insert into t values(9,'nine',9); rollback to s; commit;
select date('2001-02-03','+1 month','weekday 0'), strftime('%s','2001-02-03 04:05:06'), julianday('2000-01-01');
select printf('%5d|%-6s|%.3f|%x|%q', 42, 'ab', 3.14159, 255, 'it''s'), substr('abcdef',-3,2), instr('abc','c');
select replace('banana','an','xy'), trim('  q '), quote(x'0102'), like('a%','abc'), glob('a*','abc'), abs(-3), round(2.567,2);
explain query plan select * from t, u where t.a = u.a; pragma integrity_check; pragma table_info(t);
create view v as select * from t where exists (select 1 from u where u.a = t.a); select count(*) from v;
select * from t intersect select * from t union select 7,'x',null except select 2,'two',2.5;
alter table t add column e default 5; vacuum; analyze; reindex; drop table u; select * from t;
"""
_DEFLATE: Final = """
create table q(n integer, d blob);
with recursive n(x) as (select 1 union all select x*3+1 from n where x < 60000)
insert into q select x, sqlar_compress(cast(replace(hex(zeroblob(x/40)),'00','ab'||x) as blob)) from n;
select n, length(d), substr(hex(d),1,40), substr(sqlar_uncompress(d,(n/40)*(2+length(n))),1,30) from q;
"""
_PYTHON: Final = """
import sys
class A:
    def __init__(self, x): self.x = x
    def __lt__(self, other): return self.x < other.x
    @property
    def double(self): return self.x * 2
def g(n):
    for i in range(n):
        try:
            if i == 3: raise ValueError(i)
            yield i ** 3 // (i + 1)
        except ValueError as e:
            yield str(e)
print(list(g(6)), sorted([A(3), A(1)])[0].double, {**{'a': 1}, 'b': [1, 2][::-1]})
print(10**40 % 12345678901234567, -7 // 2, divmod(-7, 2), 1.5e300 * 1e10, round(2.675, 2), 0.1 + 0.2)
print('%5d %r %.3f' % (4, 'x', 2.5), f'{3.14159:>10.2f}|{255:#x}', 'a,b,c'.split(','), 'MiXed'.swapcase())
print('\\u00fc\\u4e2d'.encode('utf-8'), b'abc'.hex(), bytearray(b'x') * 3, 'abc'.replace('b', 'xyz'))
print({1, 2, 3} & {2, 3, 4}, frozenset('hello') >= {'h'}, tuple(zip('ab', range(2))), max([3, 9, 1]))
print(int('zz', 36), float('1e-5'), complex(1, 2) * 3, hash('fixed') == hash('fixed'), 1 << 70, (5).bit_length())
x = [i * i for i in range(20) if i % 3]; x.sort(key=lambda v: -v % 7); del x[2:5]; print(x, sum(x), any(x))
d = {str(i): i for i in range(30)}; d.pop('3'); d.update(z=1); print(len(d), sorted(d)[:3], d.get('q'))
print(eval('1 + 2 * 3'), compile('a = 1', 's', 'exec').co_names, isinstance(True, int), memoryview(b'abcd')[1:3].tobytes())
import _json, _sre, itertools, _functools, _collections, _struct, zlib
print(list(itertools.islice(itertools.permutations('abc'), 4)), _functools.reduce(lambda a, b: a * b, [1, 2, 3]))
print(_struct.pack('<hIq', 1, 2, 3), _collections.deque([1, 2], 5), zlib.crc32(b'abc'), zlib.adler32(b'abc'))
print(zlib.decompress(zlib.compress(b'deflated ' * 40, 9))[:9], zlib.decompressobj(-15).unused_data)
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """A command; `library` begins the name of the probed one, empty for the program itself."""

    name: str
    library: str
    command: Callable[[Path], list[str]]
    stdin: bytes = b""

    def probed_file(self, program: str) -> Path:
        """The file whose functions are probed."""
        if not self.library:
            return Path(program).resolve()
        for soname, path in libraries_of(Path(program)).items():
            if soname.startswith(self.library):
                return path.resolve()
        raise FileNotFoundError(f"{program} does not use {self.library}")


def _openssl(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: [str(real_program("openssl")), *arguments]


def _with_key(algorithm: str, *arguments: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        openssl, key = str(real_program("openssl")), folder / f"{algorithm}.pem"
        if not key.exists():
            making = [openssl, "genpkey", "-algorithm", algorithm, "-out", str(key)]
            subprocess.run(making, check=True, capture_output=True)
            (folder / "message").write_bytes(b"thirty-two bytes of a message...")
        places = {"KEY": str(key), "MESSAGE": str(folder / "message")}
        return [openssl, *(places.get(word, word) for word in arguments)]

    return command


_TEXT: Final = b"sixteen bytes, or thereabouts: forty-odd in all\n" * 3
_AES: Final = ("-K", "00112233445566778899aabbccddeeff", "-iv", "0102030405060708090a0b0c0d0e0f10")

WORKLOADS: Final = (
    Workload("sha", "libcrypto", _openssl("dgst", "-sha256"), _TEXT),
    Workload("sha3", "libcrypto", _openssl("dgst", "-sha3-256", "-hmac", "key"), _TEXT),
    Workload("aes", "libcrypto", _openssl("enc", "-aes-128-cbc", "-a", *_AES), _TEXT),
    Workload("ctr", "libcrypto", _openssl("enc", "-aes-128-ctr", "-a", *_AES), _TEXT),
    Workload(
        "ed25519",
        "libcrypto",
        _with_key("ED25519", "pkeyutl", "-sign", "-rawin", "-inkey", "KEY", "-in", "MESSAGE"),
    ),
    Workload("key", "libcrypto", _with_key("X25519", "pkey", "-in", "KEY", "-text")),
    Workload("prime", "libcrypto", _openssl("prime", "1000003")),
    Workload("libc", "libc.", lambda folder: [str(build_target("libc_tour.c"))]),
    Workload(
        "sort",
        "libc.",
        lambda folder: [str(real_program("sort")), "--parallel=1", "-k2n"],
        b"".join(b"x %d y\n" % (i * 7919 % 101) for i in range(60)),
    ),
    Workload(
        "awk",
        "libc.",
        lambda folder: [
            str(real_program("mawk")),
            '{ n += $2; s = s sprintf("%.2f,", log($2)); gsub(/x+/, "y"); print } END { print n, s }',
        ],
        b"xx 12\nab 7.5\nxyx 1e3\n",
    ),
    Workload(
        "date",
        "libc.",
        lambda folder: [str(real_program("date")), "-u", "-d", "@1234567890", "+%c %j"],
    ),
    Workload(
        "sqlite", "libsqlite3", lambda folder: [str(real_program("sqlite3")), ":memory:", _SQL]
    ),
    Workload(
        "deflate", "libz", lambda folder: [str(real_program("sqlite3")), ":memory:", _DEFLATE]
    ),
    Workload("c++", "libstdc++", lambda folder: [str(build_target("cxx_tour.cc", "-lstdc++"))]),
    Workload(
        "python",
        "",
        lambda folder: [str(real_program("python3")), "-I", "-S", "-B", "-c", _PYTHON],
    ),
)
