"""What transformers' own Jinja environment makes of many small templates: tests/fixtures/text/template_snippets.json.

Each snippet is rendered as transformers renders a chat template. The file holds the text, or the error's type where there is one.
"""

import json
import os
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/text/template_snippets.json"

MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "How many ships?\nCount them."},
    {"role": "assistant", "content": "<think>\nTwelve?\n</think>\n\nTwelve ships."},
    {"role": "user", "content": ""},
]

# Expressions, each printed between brackets.
EXPRESSIONS = r"""
none
true
false
1.0
1.5e3
1e20
1e-7
0.1 + 0.2
-3
1_000
'a' ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'k': none}
'a' 'b'
[1, 'two', none, true, 2.5, 'it\'s']
{'a': 1, 'b': [true, none], 'c': "it's"}
(1, 'x')
(1,)
()
[]
{}
messages[0]
messages[1]['content']
missing
missing ~ 'x'
missing | length
missing | default('d')
'' | default('d')
'' | default('d', true)
none | default('d')
none | default('d', true)
missing.attribute
missing['item']
messages[0].missing
messages[0].missing.deeper
messages[0]['missing']
messages[9]
messages[-1].role
messages[-9]
missing + 'x'
missing == none
missing is defined
missing is none
none is none
missing is undefined
not missing
missing or 'x'
messages is sequence
messages is iterable
messages is mapping
'text' is sequence
'text' is iterable
'text' is string
'text' is mapping
messages[0] is mapping
messages[0] is sequence
messages[0] is iterable
1 is sequence
none is sequence
none is iterable
missing is iterable
missing is sequence
missing is string
missing is mapping
1 is number
true is number
1.5 is number
true is integer
1 is integer
1.5 is float
1 is float
true is boolean
1 is boolean
true is true
1 is true
false is false
1 is odd
2 is even
4 is divisibleby 2
'a' is in 'abc'
'a' in 'abc'
'' in 'abc'
'k' in {'k': 1}
1 in [1, 2]
'x' not in [1]
'a' is eq 'a'
1 is sameas 1
'abc' is lower
'ABC' is upper
range is callable
'x' is callable
1 == true
1 == 1.0
'1' == 1
none == false
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1}
1 < 2 < 3
3 > 2 > 2
1 < 2 == true
'a' < 'b'
[1, 2] < [1, 3]
1 < 'a'
not 1 == 2
1 and 2
0 or 'x'
'' and 'x'
1 if false
1 if false else 2
('a' if false) is undefined
7 // 2
-7 // 2
7 % 3
-7 % 3
7.5 // 2
7 / 2
6 / 2
2 ** 3
2 ** -1
2 ** 0.5
-2 ** 2
'ab' * 2
[1] * 2
3 * 'ab'
[1] + [2]
[1] + ['a'] + messages[:0]
(1,) + (2,)
'a' + 'b'
'a' + 1
1 + true
+1
1 + 2 ~ 3
1 ~ 2 + 3
'%s and %d' % ('a', 3)
'%s' % 'x'
'%05.2f|%x|%r' % (3.14159, 255, 'q')
'%d%%' % 5
'%(a)s' % {'a': 1}
'%s' % none
'%s' % [1, 2]
'{} {}'.format('a', 1)
'{0}-{name}'.format('a', name='b')
'{:>5}|{:03d}|{:.2f}'.format('a', 7, 3.14159)
'%s-%s' | format('a', 'b')
'abcdef'[1]
'abcdef'[-1]
'abcdef'[9]
'abcdef'[1:3]
'abcdef'[::-1]
'abcdef'[::2]
'abcdef'[-3:]
'abcdef'[:-2]
'abcdef'[4:1:-1]
[1, 2, 3, 4][::-1]
[1, 2, 3, 4][1:]
[1, 2, 3, 4][-2:]
[1, 2, 3, 4][:-1] | length
[1, 2, 3, 4][::-2]
(1, 2, 3)[1:]
messages[1:] | length
messages[::-1][0].role
messages[1:][0].role
'  x '.strip()
'xxaxx'.strip('x')
'xyaxy'.lstrip('xy')
'xyaxy'.rstrip('yx')
'\u00a0x\u00a0'.strip()
'\x1cx\x1c'.strip()
'a b  c'.split()
' a b '.split()
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(',', 1)[-1]
'a,b,c'.rsplit(',', 1)
'a b'.split(none)
'a b c'.split(none, 1)
'a,b'.split(maxsplit=1, sep=',')
''.split()
''.split(',')
'a</think>b</think>c'.split('</think>')[-1].lstrip('\n')
'a\nb\r\nc'.splitlines()
'a\nb\n'.splitlines(true)
'a.b.c'.partition('.')
'a.b.c'.rpartition('.')
'abc'.startswith('a')
'abc'.startswith(('x', 'a'))
'abc'.startswith('b', 1)
'abc'.endswith('c')
'abc'.endswith(('x', 'c'))
'aXbX'.replace('X', 'y')
'aXbX'.replace('X', 'y', 1)
'hello wORLD'.title()
"it's they're".title()
"it's x-ray" | title
'hELLO wORLD'.capitalize()
'hELLO' | capitalize
'straße'.upper()
'ABC'.lower()
'aBc'.swapcase()
'abcabc'.find('c')
'äbc'.find('c')
'abcabc'.find('c', 3)
'abcabc'.rfind('c')
'abc'.find('x')
'abc'.index('c')
'abc'.index('x')
'abcabc'.count('b')
'aaa'.count('aa')
','.join(['a', 'b'])
','.join([1, 2])
','.join('abc')
'a'.center(5)
'a'.ljust(3) ~ '|'
'a'.rjust(3)
'7'.zfill(3)
'abc'.isalpha()
''.isalpha()
'123'.isdigit()
''.isdigit()
'a1'.isalnum()
' '.isspace()
''.isspace()
'ABC'.isupper()
'A1'.isupper()
'1'.isupper()
'abc'.islower()
'Title Case'.istitle()
'abc'.isascii()
'a\tb'.expandtabs(4)
'prefix-x'.removeprefix('prefix-')
'x-suffix'.removesuffix('-suffix')
'abc'.encode()
'abc'.unknown()
'a'.join
{'a': 1}.items()
{'a': 1, 'b': 2}.items() | list
{'a': 1}.keys() | list
{'a': 1}.values() | list
{'a': 1}.keys()
{'a': 1}.get('a')
{'a': 1}.get('b')
{'a': 1}.get('b', 'c')
{'a': 1}['a']
{'a': 1}.a
{'items': 1}.items
{'items': 1}['items']
{'get': 1}.get
{'a': 1}.update({'b': 2})
{'a': 1}.pop('a')
{'a': 1}.copy()
dict(a=1, b='x')
dict({'a': 1}, b=2)
dict([('a', 1)])
[1, 2].append(3)
[1, 2].index(2)
[1, 2, 2].count(2)
[3, 1].copy()
messages | length
'äbc' | length
{'a': 1} | length
1 | length
none | length
messages | count
[3, 1, 2] | sort
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
messages | sort(attribute='role') | map(attribute='role') | list
[1, 2] | first
[] | first
[1, 2] | last
[] | last
'abc' | first
'abc' | last
[1, 2, 3] | sum
[{'x': 1}, {'x': 2}] | sum(attribute='x')
[1, 2] | max
[1, 2] | min
[] | max
[1, 2, 3] | reverse | list
'abc' | reverse
[1, none, true] | join
[1, 2] | join(', ')
messages | join(', ', attribute='role')
'abc' | join('-')
messages | map(attribute='role') | join(',')
messages | map(attribute='missing') | list
messages | map(attribute='missing', default='d') | list
['a', 'b'] | map('upper') | list
['a', 'b'] | map('upper')
['a b', 'c d'] | map('replace', ' ', '_') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('content') | list | length
messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list
messages | rejectattr('content') | list | length
messages | selectattr('role', 'in', ['user', 'system']) | list | length
messages | selectattr('role', 'ne', 'user') | map(attribute='role') | list
[1, 2, 3] | select('odd') | list
[1, 2, 3] | reject('odd') | list
[0, 1, ''] | select | list
[1, 1, 2] | unique | list
['a', 'A'] | unique | list
messages | groupby('role') | map('first') | list
[1, 2, 3] | batch(2) | list
[1, 2, 3] | slice(2) | list
{'b': 1, 'a': 2} | dictsort
{'a': 1} | items | list
'abc' | list
{'a': 1} | list
(1, 2) | list
'  a b ' | trim
'xxaxx' | trim('x')
none | trim
1 | trim
'ab' | upper
'AB' | lower
none | upper
1 | string
none | string
true | string
1.0 | string
[1] | string
'3' | int
'x' | int
'x' | int(7)
'3.7' | int
3.7 | int
none | int
'1.5' | float
'x' | float
2 | float
3.14159 | round(2)
2.5 | round
3.5 | round
3.2 | round(0, 'ceil')
3.7 | round(method='floor')
-3 | abs
'a<b>&"' | e
'a<b>' | escape
'a<b>' | safe
'a b' | replace(' ', '_')
'aaa' | replace('a', 'b', 2)
'one two three' | wordcount
'one two three' | truncate(9)
'a\nb' | indent(2)
'a\nb' | indent(2, true)
'a\n\nb' | indent(4)
'a\nb' | indent
'x' | attr('upper')
'a b' | urlencode
'<b>x</b>' | striptags
'x' | center(5)
12345 | filesizeformat
{'a': 1} | tojson
{'a': [1, 2.0, none, true], 'ä': 'é<&>\'"'} | tojson
[] | tojson
{} | tojson
'a\nb\t\x01' | tojson
{'a': [1, {'b': 2}], 'c': {}} | tojson(indent=2)
{'b': 1, 'a': 2} | tojson(sort_keys=true)
{'a': 1} | tojson(separators=(',', ':'))
{'a': [1, 2]} | tojson(indent=4, separators=(',', ': '))
'ä' | tojson(ensure_ascii=true)
{1: 2} | tojson
{none: 1, true: 2} | tojson
1e20 | tojson
1e16 | tojson
1.0 | tojson
0.00001 | tojson
(1, 2) | tojson
missing | tojson
messages[0] | tojson(indent=4)
'\ud83d' | length
'🙂' | length
'🙂é'[0]
'a' | pprint
['a', {'b': 1}] | pprint
range(3) | list
range(3)
range(1, 7, 2) | list
range(5, 0, -2) | list
'a' if messages else 'b'
messages[0]['role'] ~ ':' ~ messages[0].content | trim
[messages[0].role, 1][0]
{'a': {'b': 1}}.a.b
{'a': {'b': 1}}['a']['b']
{'a': 1, 'a': 2}
{'a-b': 1}['a-b']
[1, 2, 3].__class__
''.__class__
messages.__class__
lipsum
cycler('a', 'b').next()
joiner(', ')()
bos_token ~ eos_token
tools is none
tools
documents
add_generation_prompt
raise_exception('no')
namespace(a=1).a
namespace()
strftime_now('%Q') is string
strftime_now is defined
'\x41\u0042\t\\n'
"a\"b"
'a\
b'
1 is not none
not none is none
'x' is not string
1 is number and 2 is number
'a' ~ ('b' if true else 'c') ~ 'd'
not true or true
true and not false
(1 if none else 2) + 1
- 1 | abs
'a' * 0
'abc' [1:]
[[1, 2], [3]] | sum(start=[])
[[1, 2], [3]] | map('length') | list
[1, 2, 3] | map('string') | join('')
{'role': 'x'} == messages[0]
messages | list | length
messages | first | attr('role')
messages[0] | attr('role')
'abc' is startingwith('a')
5 // 0
5 % 0
messages[0] ~ ''
[messages[0].role] ~ messages[0].content | trim ~ 1.0
messages | map(attribute='role') | list ~ 'x'
1 ~ 2 * 3 ~ 4
- 1 ~ 2
1 - 1 ~ 2
not 1 ~ 2
'a' ~ 1 is defined
('a' ~ 'b') | upper ~ 'c'
'a' ~ messages[0].missing ~ 'b'
messages[3].content and 'x'
messages[3].content or 'x'
messages[0].role and messages[0].content
messages[0].missing and 'x'
'%s: %s' % (messages[0].role, messages[1].content | length)
'%s' % messages[0].role | upper
'<%s>' % messages[0].role ~ '!'
'%.1f%%' % 12.345
'%5s|%-5s|' % ('a', 'b')
'%s' % true
'a' // 'b'
""".strip().split("\n")
# A string that a line end in it continues is two lines of the list above.
EXPRESSIONS = "\n".join(EXPRESSIONS).replace("'a\\\nb'", "'a' ~ 'b'").split("\n")

# Whole templates.
STATEMENTS = {
    "loop with its length over text": "{% for c in messages[1].content %}{{ loop.length if loop.first }}{{ loop.revindex0 if loop.last }}{% endfor %}",
    "loop over pairs": "{% for pair in {'a': 1, 'b': 2} | items %}{{ pair }}{{ pair[0] }}{{ loop.last }}{% endfor %}",
    "loop over bare tuple": "{% for x in 1, 2 %}{{ x }}{{ loop.length }}{% endfor %}",
    "loop over one or another": "{% for m in (messages if messages else []) if m.role != 'user' -%} {{ loop.index }}{{ m.role }} {%- endfor %}",
    "loop over slices": "{% for m in messages[1:][::-1] %}{{ loop.previtem.role if loop.previtem else '-' }}>{{ m.role }};{% endfor %}",
    "loop over a filter": "{% for r in messages | map(attribute='role') | unique | list %}{{ loop.length }}{{ r }},{% endfor %}",
    "loop over selected": "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ loop.index }}{{ loop.last }};{% endfor %}",
    "namespace in a macro": "{% set ns = namespace(n=0) %}{% macro f(x) %}{% set ns.n = ns.n + x %}{{ ns.n }}{% endmacro %}{{ f(1) }}{{ f(2) }}{{ ns.n }}",
    "break and else": "{% for x in [1, 2] %}{% if x > 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}",
    "nested ifs": "{% if true %}" * 80 + "x" + "{% endif %}" * 80,
    "long concatenation": "{{ " + "'a' ~ " * 300 + "1 }}",
    "comparisons of texts": "{{ 'a' < 'b' }}{{ messages[0].role >= messages[1].role }}{{ messages[0].role < 3 }}",
    "comparisons of lengths": "{% if messages | length > 2 and loop is not defined and messages | length - 1 >= 3 %}y{% endif %}",
    "comparison with undefined": "{% if missing > 3 %}a{% endif %}",
    "comparison with none": "{% if none < 3 %}a{% endif %}",
    "comparison of a sum": "{% if messages | length + 1 > loop_limit | default(4) %}y{% else %}n{% endif %}",
    "tuple in a variable, sliced": "{% set t = ('a', 'b', 'c') %}{{ t[1:] }}{{ t[:1] }}{{ t[::-1][0] }}{{ t[1:] | length }}{{ ('a', 'b')[1:] }}",
    "tuple in a variable, compared": "{% set t = (1, 2) %}{{ t == [1, 2] }}{{ [1, 2] != t }}",
    "tuple in a variable, added": "{% set t = (1, 2) %}{{ t + (3,) }}",
    "tuple of with, sliced": "{% with a = 1, t = (1, 2) %}{{ t[1:] }}{{ a }}{% endwith %}",
    "tuple of a loop, sliced": "{% for t in [('a', 1), ('b', 2)] %}{{ t[:1] }}{% endfor %}{% for t in {'a': 1}.items() %}{{ t[:1] }}{{ t[0] }}{% endfor %}",
    "tuple compared in a loop": "{% for t in {'a': 1}.items() %}{{ t == ['a', 1] }}{% endfor %}",
    "tuples compared deeply": "{% set t = (1, (2, 3)) %}{{ t == (1, [2, 3]) }}{{ t == (1, (2, 3)) }}{{ [t] == [[1, (2, 3)]] }}{{ {'k': t} != {'k': [1]} }}{{ t[1] == (2, 3) }}{{ t == none }}{{ not t == missing }}{{ t | length + 1 == 3 }}",
    "tuples in an order": "{% set t = (1, 2) %}{{ t < (1, 3) }}{{ t >= (1, 2) }}",
    "tuple and list in an order": "{{ (1, 2) < [1, 3] }}",
    "tuple or list, sliced": "{% set t = (1, 2) %}{% if messages %}{% set t = [1, 2] %}{% endif %}{{ t[1:] }}",
    "list beside a tuple, sliced": "{% set t = (1, 2) %}{% set l = [1, 2] %}{{ l[1:] }}{{ l == [1, 2] }}{{ t[0] == 1 }}{{ messages[1:] | length }}",
    "raw and its line end": "a\n{% raw %}\n{{ x }}\n{% endraw %}\nb",
    "raw that strips, and its line end": "a \n {%- raw %}\n{{ x }}\n{% endraw -%}\n b",
    "raw that strips after it": "a{% raw -%}\n {{ x }}\n{%- endraw %}\nb",
    "raw in a line": " {% raw %}\n\n{{ x }}{% endraw %} {{ 'y' }}\n",
    "tuple of tuples": "{% set t = ('a', ('b', 1)) %}{{ t }}{{ t[1] }}{{ t[1][0] }}{{ t | length }}{{ t[-1] }}{{ 'a' in t }}",
    "tuple in startswith": "{{ messages[0].role.startswith(('sys', 'us')) }}{{ 'x.py'.endswith(('.rs', '.py')) }}",
    "ranges": "{{ range(2, 9, 3) }}{{ range(3) | list }}{{ range(5, 0, -2) | list }}{{ range(4)[1] }}{{ range(4) | length }}{{ 2 in range(4) }}{{ range(3) | sum }}",
    "a large range": "{{ range(10**9) | length }}",
    "views": "{% set d = {'a': 1, 'b': [2]} %}{{ d.values() }}{{ d.items() | length }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.items() is sequence }}{{ 'a' in d.keys() }}{{ d.items() | tojson }}",
    "split and take": "{{ messages[2].content.split('</think>')[-1].split()[-1] }}{{ 'a b'.split()[::-1] }}{{ messages[1].content.splitlines()[-1].split(' ', 1)[0] }}",
    "replace nothing": "{{ 'abc'.replace('', '-') }}{{ 'abc'.replace('', '-', 2) }}{{ 'abc' | replace('', '-') }}{{ ''.replace('', 'x') }}",
    "date": "{{ strftime_now('%Y') | length }}{{ strftime_now('%d %B') is string }}{{ strftime_now('') }}",
    "old mac line ends": "{% for m in messages -%}\r  {{ m.role }}\r{% endfor %}\rend\r",
    "raw with text on its line": "a{% raw %} {{ b }}\n{% endraw %}\nc{% raw -%}\n {{ d }}{% endraw -%}\n e",
    "and, or": "{{ 'a' and '' }}|{{ '' or none }}|{{ none and 1 }}|{{ 0 or [] }}|{{ not '' and 'x' }}|{{ 1 and 2 or 3 }}|{{ messages[0].role and 'r' }}",
    "ternary without else": "{{ 'x' if messages | length < 0 }}|{{ ('x' if false) is defined }}",
    "call with a macro": "{% macro turn(r) %}<{{ r }}>{{ caller() }}</{{ r }}>{% endmacro %}{% for m in messages[:2] %}{% call turn(m.role) %}{{ m.content | trim }}{% endcall %}{% endfor %}",
    "group by": "{% for role, ms in messages | groupby('role') %}{{ role }}={{ ms | length }};{% endfor %}",
    "dict methods": "{% set d = dict(a=1, **{'b': 2}) %}{{ d }}{{ d.get('c', 'z') }}{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "set block of roles": "{% set x %}{% for m in messages %}{{ m.role[0] }}{% endfor %}{% endset %}{{ x | upper }}{{ x ~ 1 }}",
    "attribute tests": "{{ 'content' in messages[0] }}{{ messages[0].tool_calls is defined }}{{ messages[0]['tool_calls'] }}{{ messages[0].get('name') is none }}",
    "crlf": "{%- for m in messages %}\r\n{{- '<' ~ m.role }}\r\n{{ m.content }}>\r\n{% endfor %}\r\n{%- if true %}\r\nx\r\n{% endif %}\r\nend\r\n",
    "lone cr": "a\rb\r{% if true %}\rc{% endif %}\rd",
    "crlf in a string": "{{ 'a\r\nb' | length }}",
    "crlf in raw": "{% raw %}\r\n{{ x }}\r\n{% endraw %}\r\nend",
    "trailing newline": "a\n",
    "trailing newlines": "a\n\n",
    "only a newline": "\n",
    "trim blocks": "{% if true %}\n  a\n{% endif %}\n\nb",
    "lstrip blocks": "  {% if true %}\n  a\n  {% endif %}\n b",
    "lstrip with text": "x  {% if true %}a{% endif %}",
    "tab before a block": "\t{% if true %}a\t{% endif %}",
    "minus": "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "minus in expressions": "a {{- 'b' -}} c",
    "plus": "a\n  {%+ if true +%}\n b{% endif %}",
    "comment": "a {# c #} b\n{# line #}\nc {#- d -#} e",
    "lstrip comment": "   {# c #}\nx",
    "comment with a tag": "{# {% if %} {{ #}x",
    "raw": "{% raw %}{{ x }}{% endraw %}",
    "raw minus": "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "line end after an expression": "{{ 'a' }}\n{{ 'b' }}\n",
    "for else": "{% for x in [] %}a{% else %}b{% endfor %}",
    "for if": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{{ loop.length }},{% endfor %}",
    "for if loop.first": "{% for x in [1, 2, 3] if x > 1 %}{{ loop.first }}{{ loop.revindex }} {% endfor %}",
    "loop variables": "{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "loop neighbours": "{% for x in [1, 2, 3] %}{{ loop.previtem }}|{{ loop.nextitem }}|{{ loop.previtem is defined }};{% endfor %}",
    "loop neighbours' attributes": "{% for m in messages %}{% if loop.previtem and loop.previtem.role == 'user' %}U{% endif %}{% if loop.nextitem is defined %}{{ loop.nextitem.role }}{% endif %};{% endfor %}",
    "loop cycle": "{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "loop changed": "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "loop inside": "{% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "loop after": "{% for x in [1] %}{% endfor %}{{ loop is defined }}",
    "loop as a value": "{% for x in [1] %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}",
    "unpack": "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %}",
    "unpack lists": "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}",
    "unpack too few": "{% for a, b in [(1,)] %}{{ a }}{% endfor %}",
    "for over a dict": "{% for k in {'a': 1} %}{{ k }}{% endfor %}",
    "for over a string": "{% for c in 'aé' %}{{ c }},{% endfor %}",
    "for over undefined": "{% for x in missing %}a{% else %}b{% endfor %}",
    "for over none": "{% for x in none %}a{% endfor %}",
    "for over a number": "{% for x in 3 %}a{% endfor %}",
    "break": "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "continue": "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "recursive": "{% for x in [{'c': [{'c': []}]}] recursive %}({{ loop(x.c) }}){% endfor %}",
    "set does not leave a loop": "{% set x = 1 %}{% for y in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "set leaves an if": "{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "set does not leave a with": "{% with y = 1 %}{% set x = 2 %}{{ y }}{% endwith %}{{ x }}",
    "set two": "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "set block": "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x | length }}",
    "set block with a filter": "{% set x | upper %}a{% endset %}{{ x }}",
    "set attribute": "{% set x = {'a': 1} %}{% set x.a = 2 %}{{ x.a }}",
    "namespace": "{% set ns = namespace(a=1) %}{% for x in [1, 2] %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}",
    "namespace of a dict": "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
    "namespace item": "{% set ns = namespace(a=1) %}{{ ns['a'] }}{{ ns.missing is defined }}{{ ns.missing }}",
    "namespace item of a variable": "{% set ns = namespace(a=1) %}{% set k = 'a' %}{{ ns[k] }}",
    "namespace in a list": "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [1] %}{{ ns.l }}",
    "namespace set block": "{% set ns = namespace(a='') %}{% set ns.a %}x{% endset %}{{ ns.a }}",
    "namespace new attribute": "{% set ns = namespace() %}{% set ns.b = 3 %}{{ ns.b }}{{ ns.b is defined }}",
    "macro": "{% macro f(a, b='d', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}|{{ f(1, 2) }}|{{ f(c=3, a=0) }}",
    "macro missing argument": "{% macro f(a) %}[{{ a }}]{{ a is defined }}{% endmacro %}{{ f() }}",
    "macro too many": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "macro unknown keyword": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
    "macro varargs": "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, a=2) }}",
    "macro sees globals": "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}",
    "macro sees later globals": "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}",
    "macro sets stay inside": "{% macro f() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}",
    "macro output is a string": "{% macro f() %} a {% endmacro %}{{ f() | trim }}{{ f() is string }}",
    "macro default of another": "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(1) }}",
    "macro name": "{% macro f(a) %}{% endmacro %}{{ f.name }}{{ f.arguments }}",
    "macro recursion": "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "macro in a loop": "{% for x in [1, 2] %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}",
    "call": "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}x{% endcall %}",
    "call with arguments": "{% macro f() %}<{{ caller(1) }}>{% endmacro %}{% call(a) f() %}x{{ a }}{% endcall %}",
    "filter block": "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    "with": "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "generation": "{% generation %}a{% endgeneration %}b",
    "generation white space": "a\n{%- generation -%}\n b \n{%- endgeneration -%}\n c",
    "generation scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "if elif": "{% if false %}a{% elif 0 %}b{% elif 'x' %}c{% else %}d{% endif %}",
    "if not defined": "{% if not x is defined %}a{% endif %}{% if x is not defined %}b{% endif %}",
    "inline if without else": "[{{ 'a' if false }}]",
    "inline if chain": "{{ 'a' if false else 'b' if false else 'c' }}",
    "do": "{% do messages.append(1) %}",
    "autoescape": "{% autoescape false %}{{ '<' }}{% endautoescape %}",
    "block": "{% block a %}x{% endblock %}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "unknown tag": "{% frobnicate %}",
    "unknown filter": "{{ 'a' | frobnicate }}",
    "unknown filter not reached": "{% if false %}{{ 'a' | frobnicate }}{% endif %}x",
    "unknown test": "{{ 'a' is frobnicate }}",
    "unknown function": "{{ frobnicate() }}",
    "unknown method": "{{ messages.frobnicate() }}",
    "content parts": "{% for m in messages %}{% if m.content is string %}s{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "content sequence": "{% for m in messages %}{% if m.content is iterable and m.content is not string and m.content is not mapping %}l{% else %}t{% endif %}{% if m.content is sequence %}q{% endif %}{% endfor %}",
    "tools or none": "{% if tools is defined and tools is not none %}t{% endif %}{% if tools %}u{% endif %}{% if not tools is defined %}v{% endif %}",
    "reassigned messages": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 and system is defined %}{{ '<<SYS>>' + system.strip() }}{% endif %}{{ m.role }}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}!{% endif %}{% endfor %}",
    "qwen3": "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == 'user' and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{{ ns.last_query_index }}{%- for message in messages %}{%- if message.role == 'assistant' %}{%- set content = message.content %}{%- set reasoning = '' %}{%- if '</think>' in message.content %}{%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}{%- set reasoning = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{%- endif %}{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{%- endif %}{%- endfor %}",
    "qwen2.5 tools": "{%- if tools %}{{ tools | tojson }}{%- else %}{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endif %}{%- for message in messages %}{%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- elif message.role == \"tool\" %}{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != \"tool\") %}x{%- endif %}{%- endif %}{%- endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% if messages[0]['content'] is string %}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{% else %}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{% endif %}{%- set loop_messages = messages[1:] -%}{% else %}{%- set first_user_prefix = \"\" -%}{%- set loop_messages = messages -%}{% endif %}{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\") }}{%- endif -%}{%- if (message['role'] == 'assistant') -%}{%- set role = \"model\" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- else -%}{{ raise_exception(\"Invalid content type\") }}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}",
    "llama 3.1": "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n{%- if not tools_in_user_message is defined %}\n    {%- set tools_in_user_message = true %}\n{%- endif %}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n        {%- set date_string = '26 Jul 2024' %}\n    {%- endif %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n{%- if tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "mistral": "{%- if messages[0][\"role\"] == \"system\" %}\n    {%- set system_message = messages[0][\"content\"] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}\n\n{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n{%- for message in loop_messages %}\n    {%- if not (message.role == \"tool\" or message.role == \"tool_results\" or (message.tool_calls is defined and message.tool_calls is not none)) %}\n        {%- if (message[\"role\"] == \"user\") != (ns.index % 2 == 0) %}\n            {{- raise_exception(\"no\") }}\n        {%- endif %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n\n{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message[\"role\"] == \"user\" %}\n        {%- if loop.last and system_message is defined %}\n            {{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\n        {%- else %}\n            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}\n        {%- endif %}\n    {%- elif message[\"role\"] == \"assistant\" %}\n        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- endif %}\n{%- endfor %}\n",
    "deepseek": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}x{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}",
    "phi": "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "command-r": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'x' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|S|>' + system_message + '<|E|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|U|>' + content.strip() + '<|E|>' }}{% elif message['role'] == 'assistant' %}{{ '<|C|>'  + content.strip() + '<|E|>' }}{% endif %}{% endfor %}",
    "granite": "{%- set documents_text = '' %}{%- if documents %}{%- for d in documents %}{%- set documents_text = documents_text + d.text %}{%- endfor %}{%- endif %}{%- for message in messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}",
}


def render(template):
    case = {"template": template}
    try:
        case["text"] = _compile_jinja_template(template).render(
            messages=json.loads(json.dumps(MESSAGES)), tools=None, documents=None, add_generation_prompt=True,
            bos_token="<s>", eos_token="</s>")
        case["text"].encode()
    except Exception as error:
        case.pop("text", None)
        case["error"] = f"{type(error).__name__}: {error}"[:120].encode(errors="replace").decode()
    # An address is no text to compare.
    if " object at 0x" in case.get("text", "") or " at 0x" in case.get("text", ""):
        return None
    return case


def main():
    cases = [render("[{{ " + expression + " }}]") for expression in EXPRESSIONS]
    cases += [render(template) for template in STATEMENTS.values()]
    cases = [case for case in cases if case]
    json.dump({"messages": MESSAGES, "cases": cases}, OUT.open("w", encoding="utf-8"), ensure_ascii=False, indent=0)
    OUT.open("a").write("\n")
    print(len(cases), "cases,", sum("error" in case for case in cases), "errors")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
