"""The demo's data: two made-up tables that overlap, the same bytes for the same seed.

`invoices.parquet` belongs to sz-trade, `credit.parquet` to hk-bank. They have what real tables have and
toy tables lack: NULL keys, exact duplicate rows, a few customers with hundreds of invoices, heavy-tailed
amounts, rare groups, dates before 1970. Everything is invented; a code or name that belongs to a real
company is a coincidence. Nothing here reads the clock or the operating system's randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
"""The 31 characters of a Unified Social Credit Code: GB 32100-2015, table 1 (no I, O, S, V, Z)."""

SEED = 20_260_101

_USCC_BASE = len(USCC_ALPHABET)
_USCC_WEIGHTS = tuple(pow(3, i, _USCC_BASE) for i in range(17))  # GB 32100-2015, table 2
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)  # GB 11714-1997
_DIGIT_X = USCC_ALPHABET.index("X")
_LETTER_M, _LETTER_A = USCC_ALPHABET.index("M"), USCC_ALPHABET.index("A")

# Name, the words a company name begins with, GB/T 2260 division code, share of companies.
_REGIONS = (
    ("深圳", "深圳市", "440300", 0.38),
    ("香港", "香港", "810000", 0.22),
    ("广州", "广州市", "440100", 0.14),
    ("东莞", "东莞市", "441900", 0.09),
    ("佛山", "佛山市", "440600", 0.06),
    ("珠海", "珠海市", "440400", 0.04),
    ("惠州", "惠州市", "441300", 0.03),
    ("中山", "中山市", "442000", 0.02),
    ("江门", "江门市", "440700", 0.015),
    ("澳门", "澳门", "820000", 0.005),
)

# Name, the words a company name ends with, share of companies, how large its invoices are beside others'.
# The last two are so rare that a joint or filtered query leaves fewer than ten companies in them.
_INDUSTRIES = (
    ("electronics", "电子", 0.22, 1.6),
    ("logistics", "物流", 0.14, 0.6),
    ("machinery", "机械", 0.12, 2.0),
    ("textiles", "纺织", 0.11, 0.7),
    ("food", "食品", 0.10, 0.4),
    ("software", "软件", 0.09, 0.9),
    ("furniture", "家具", 0.08, 0.6),
    ("chemicals", "化工", 0.06, 1.8),
    ("medical devices", "医疗器械", 0.045, 1.4),
    ("jewellery", "珠宝", 0.03, 2.5),
    ("aerospace", "航天", 0.0008, 6.0),
    ("salvage", "打捞", 0.0004, 1.0),
)

_RATINGS = ("AAA", "AA", "A", "BBB", "BB", "B", "CCC", "D")
_RATING_SHARES = (0.01, 0.05, 0.17, 0.33, 0.25, 0.13, 0.05, 0.01)
_CURRENCIES = ("CNY", "HKD", "USD")
_CURRENCY_SHARES = (0.78, 0.14, 0.08)

# Three of these make a name: 32 * 32 * 32 companies before one returns.
_SYLLABLES = "鹏华信达兴盛恒泰嘉和瑞丰宏远金源天成永安裕隆凯旋博雅锦程海润顺捷"

_FIRST_DAY = np.datetime64("2024-01-01")
_LAST_DAY = np.datetime64("2026-09-30")

_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DemoData:
    """Where the two tables are, and the figures that a narrator may say aloud."""

    invoices: Path
    credit: Path
    invoice_rows: int
    invoice_companies: int  # distinct company_id in invoices, NULL aside
    credit_companies: int  # distinct company_id in credit, NULL aside
    shared_companies: int  # company_id that stand in both


@dataclass(frozen=True, slots=True)
class _Companies:
    """Both participants' companies, one row each. `risk` lies behind rating and late payment alike."""

    codes: pa.Array
    region: _Ints  # index into _REGIONS
    industry: _Ints  # index into _INDUSTRIES
    risk: NDArray[np.float64]  # uniform in [0, 1); larger pays later


def write_demo_data(folder: Path, rows: int = 200_000, seed: int = SEED) -> DemoData:
    """Write both tables as Parquet into `folder` (made if missing); `rows` counts the invoices.

    There are rows/10 companies with invoices, 3/4 as many with credit, 9/20 in both.
    Raises `ValueError` for fewer than 1,000 rows: the rare industries would be empty.
    """
    if rows < 1_000:
        raise ValueError("the demo data needs at least 1,000 rows")
    rng = np.random.default_rng(seed)
    buyers, borrowers, shared = rows // 10, rows * 3 // 40, rows * 9 // 200
    companies = _companies(rng, buyers + borrowers - shared)
    folder.mkdir(parents=True, exist_ok=True)
    data = DemoData(
        invoices=folder / "invoices.parquet",
        credit=folder / "credit.parquet",
        invoice_rows=rows,
        invoice_companies=buyers,
        credit_companies=borrowers,
        shared_companies=shared,
    )
    # The first `buyers` companies have invoices, the last `borrowers` have credit.
    pq.write_table(_invoices(rng, companies, buyers, rows), data.invoices, compression="zstd")
    pq.write_table(_credit(rng, companies, borrowers), data.credit, compression="zstd")
    return data


def _companies(rng: np.random.Generator, n: int) -> _Companies:
    region = _spread(rng, n, [share for *_, share in _REGIONS])
    industry = _spread(rng, n, [share for _, _, share, _ in _INDUSTRIES])
    return _Companies(_codes(rng, region), region, industry, rng.random(n))


def _spread(rng: np.random.Generator, n: int, shares: list[float]) -> _Ints:
    """Return n indexes in random order, each index as often as its share says and at least once."""
    counts = np.maximum(1, np.round(n * np.array(shares) / sum(shares))).astype(np.int64)
    counts[0] += n - counts.sum()
    return rng.permutation(np.repeat(np.arange(len(shares)), counts))


def _codes(rng: np.random.Generator, region: _Ints) -> pa.Array:
    """Return distinct codes: 91, division, organisation code (MA + 6 + its own check), check character."""
    n = len(region)
    division = np.array([[int(d) for d in code] for _, _, code, _ in _REGIONS])
    body = np.empty((n, 18), dtype=np.int64)
    body[:, 0:2] = 9, 1
    body[:, 2:8] = division[region]
    body[:, 8:10] = _LETTER_M, _LETTER_A
    serial = rng.choice(_USCC_BASE**6, size=n, replace=False)
    body[:, 10:16] = serial[:, None] // _USCC_BASE ** np.arange(6) % _USCC_BASE
    body[:, 16] = _organisation_check(body[:, 8:16])
    body[:, 17] = -(body[:, :17] @ np.array(_USCC_WEIGHTS)) % _USCC_BASE
    letters = np.frombuffer(USCC_ALPHABET.encode(), dtype="S1")[body]
    return pa.array(letters.view("S18").ravel().astype("U18"), pa.string())


def _organisation_check(body: _Ints) -> _Ints:
    """Return the check character of GB 11714 organisation codes, whose alphabet is all of 0-9 and A-Z."""
    plain = np.array([int(c, 36) for c in USCC_ALPHABET])
    check = -(plain[body] @ np.array(_ORGANISATION_WEIGHTS)) % 11
    return np.where(check == 10, _DIGIT_X, check)


def _names(companies: _Companies, n: int) -> pa.Array:
    syllables = np.array(list(_SYLLABLES))
    first, second, third = (syllables[np.arange(n) // len(syllables) ** i % len(syllables)] for i in range(3))
    name = np.strings.add(np.array([start for _, start, *_ in _REGIONS])[companies.region[:n]], first)
    name = np.strings.add(np.strings.add(name, second), third)
    trade = np.array([f"{word}有限公司" for _, word, *_ in _INDUSTRIES])[companies.industry[:n]]
    return pa.array(np.strings.add(name, trade), pa.string())


def _invoices(rng: np.random.Generator, companies: _Companies, buyers: int, rows: int) -> pa.Table:
    copies = rows // 500  # 0.2 % were entered twice
    once = rows - copies
    buyer = np.concatenate([np.arange(buyers), _zipf(rng, buyers, once - buyers)])
    days = (_LAST_DAY - _FIRST_DAY).astype(np.int64) + 1
    day = np.sort((days * rng.random(once) ** 0.8).astype(np.int64))  # business grows
    date = _FIRST_DAY + day
    buyer = rng.permutation(buyer)
    # A key may only be unknown where the company has another invoice: the figures above stay exact.
    _, first_seen = np.unique(buyer, return_index=True)
    unknown = rng.random(once) < 0.005
    unknown[first_seen] = False
    scale = np.array([size for *_, size in _INDUSTRIES])[companies.industry[buyer]]
    cents = np.clip(100 * scale * rng.lognormal(9.2, 1.7, once), 1, 1e11).astype(np.int64)
    late = rng.random(once) < 0.15 + 0.6 * companies.risk[buyer]
    overdue = 1 + rng.exponential(5 + 90 * companies.risk[buyer] ** 2).astype(np.int64)
    table = pa.table(
        {
            "company_id": companies.codes.take(pa.array(buyer, mask=unknown)),
            "company_name": _names(companies, buyers).take(pa.array(buyer)),
            "industry": _words([name for name, *_ in _INDUSTRIES], companies.industry[buyer]),
            "invoice_date": pa.array(date, pa.date32()),
            "quarter": _quarters(date),
            "amount": _decimals(cents, rng.random(once) < 0.01, pa.decimal128(12, 2)),
            "overdue_days": pa.array(np.minimum(overdue, 3650), pa.int64(), mask=~late),  # NULL: paid in time
            "currency": _words(_CURRENCIES, rng.choice(len(_CURRENCIES), once, p=_CURRENCY_SHARES)),
        }
    )
    again = rng.choice(once, size=copies, replace=False)
    return table.take(pa.array(np.sort(np.concatenate([np.arange(once), again]))))


def _credit(rng: np.random.Generator, companies: _Companies, borrowers: int) -> pa.Table:
    strangers = borrowers // 1000 + 1  # customers on file without a code
    company = np.arange(len(companies.codes) - borrowers, len(companies.codes))
    company = rng.permutation(np.concatenate([company, rng.choice(company, strangers)]))
    known = np.unique(company, return_index=True)[1]
    unknown = np.ones(len(company), dtype=bool)
    unknown[known] = False
    # Ratings follow risk, with an error: a bank does not know everything either.
    estimate = companies.risk[company] + rng.normal(0, 0.08, len(company))
    rank = np.argsort(np.argsort(estimate)) / len(company)
    rating = np.searchsorted(np.cumsum(_RATING_SHARES)[:-1], rank, side="right")
    cents = np.clip(100 * rng.lognormal(13.5, 1.6, len(company)), 0, 1e13).astype(np.int64)
    age = (365.25 * np.minimum(90, 1 + rng.gamma(1.6, 11.0, len(company)))).astype(np.int64)
    founded = np.datetime64("2026-01-01") - age
    since = founded + (age * rng.beta(1.5, 2.0, len(company))).astype(np.int64)
    return pa.table(
        {
            "company_id": companies.codes.take(pa.array(company, mask=unknown)),
            "rating": _words(_RATINGS, rating),
            "exposure": _decimals(cents, rng.random(len(company)) < 0.005, pa.decimal128(14, 2)),
            "region": _words([name for name, *_ in _REGIONS], companies.region[company]),
            "founded": pa.array(founded, pa.date32()),
            "since": pa.array(since, pa.date32()),
        }
    )


def _zipf(rng: np.random.Generator, n: int, size: int) -> _Ints:
    """Return `size` draws of 0..n-1, shifted Zipf: many companies with few, a few with hundreds."""
    weights = (np.arange(n) + 20.0) ** -0.8
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(size)).astype(np.int64)


def _words(words: list[str] | tuple[str, ...], index: _Ints) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(index))


def _quarters(date: NDArray[np.datetime64]) -> pa.Array:
    quarter = date.astype("datetime64[M]").astype(np.int64) // 3  # since 1970Q1
    distinct, index = np.unique(quarter, return_inverse=True)
    return _words([f"{1970 + q // 4}Q{q % 4 + 1}" for q in distinct.tolist()], index)


def _decimals(cents: _Ints, null: _Bools, kind: pa.Decimal128Type) -> pa.Array:
    """Return whole cents as decimals of scale 2: each is one 128-bit little-endian integer."""
    wide = np.stack([cents, cents >> 63], axis=1)
    valid = pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.Array.from_buffers(kind, len(cents), [valid, pa.py_buffer(wide)])
