"""The readers themselves: what they take for a value has been seen with systemd 252, uWSGI 2.0.30 and nginx 1.22."""

import pytest
from readers import (
    Surprise,
    read_apache,
    read_environ,
    read_environment,
    read_ini,
    read_json,
    read_nginx,
    read_program,
    read_script,
    read_unit,
)


@pytest.mark.parametrize(
    ("reader", "text", "expected"),
    [
        (
            read_environment,
            'A="x\\"\\\\\\$\\`\\n y"\n# B=1\nC=  d e  \nE=\'f"\'\n',
            {"A": 'x"\\$`\\n y', "C": "d e", "E": 'f"'},
        ),
        (read_environment, 'A="one\ntwo"\nB="x\\\ny"\nC=a\\ b\\\nc\n', {"A": "one\ntwo", "B": "xy", "C": "a bc"}),
        (read_environment, 'A="x', Surprise),
        (read_environment, "A\n", Surprise),
        (read_environ, 'A=\'it\'\nB="\\"\\n"\nC=x#y\n', {"A": "it", "B": '"\\n', "C": "x#y"}),
        (read_environ, "x y\n", Surprise),
        (
            read_unit,
            "[S]\nA=b c \n# x\n;y\nB=%%n\nC=x\\\n  y\n",
            [("[S]", "A", "b c"), ("[S]", "B", "%n"), ("[S]", "C", "x   y")],
        ),
        (read_unit, "[S]\nA=%n\n", Surprise),
        (read_unit, "[S]\nA\n", Surprise),
        (read_program, "; x\n[p:x]\na=b %%n ; c\n", [("[p:x]", "a", "b %n")]),
        (read_program, "[p:x]\na=%(here)s\n", Surprise),
        (read_program, "[p:x]\na=b\na=c\n", Surprise),
        (read_script, "a 'b c' # d\n\nexec >>/e\n", [["a", "b c"], ["exec", ">>/e"]]),
        (read_script, "a $(id)\n", Surprise),
        (read_ini, "[u]\na = b = c ; d \n;x\n#y\nb = %%n\\\n", [("[u]", "a", "b = c ; d"), ("[u]", "b", "%n\\")]),
        (read_ini, "[u]\na = %n\n", Surprise),
        (read_ini, "[u]\na = $(X)\n", Surprise),
        (read_ini, "[u]\na = @(/etc/shadow)\n", Surprise),
        (read_ini, "[u]\na = %%(b)\n", Surprise),
        (read_apache, 'A "b \\\\ \\" c" d\n<S "x">\n # y\n</S>\n', [["A", 'b \\ " c', "d"], ["<S", "x"], ["</S"]]),
        (read_apache, 'A b="c d" e=f %{g}', [["A", "b=c d", "e=f", "%{g}"]]),
        (read_apache, "A b \\\nc", [["A", "b", "c"]]),
        (read_apache, 'A "b', Surprise),
        (read_apache, 'A "b"c', Surprise),
        (read_apache, "A ${b}", Surprise),
        (read_apache, "<S x>\n", Surprise),
        (read_nginx, 'return 200 "a\\\\b\\"c;{}#";', [['return 200 a\\b"c;{}#', None]]),
        (read_nginx, "return 200 'a\\'b\"c\\\\';", [["return 200 a'b\"c\\", None]]),
        (read_nginx, 'return 200 a\\"b\\;c\\\\;', [['return 200 a"b\\;c\\', None]]),
        (read_nginx, 'return 200 "a\\qb\\/\\t";', [["return 200 a\\qb\\/\t", None]]),
        (read_nginx, "return 200 a#b\"c'd; # x\n", [["return 200 a#b\"c'd", None]]),
        (read_nginx, "a ${b}c; d {\ne f;}", [["a ${b}c", None], ["d", [["e f", None]]]]),
        (read_nginx, 'return 200 "a"b;', Surprise),
        (read_nginx, 'a "b;', Surprise),
        (read_nginx, "a { b; ", Surprise),
        (read_nginx, "a { b }", Surprise),
        (read_nginx, "a; }", Surprise),
        (read_nginx, "a", Surprise),
        (read_json, '{"a": [1, "b"]}', {"a": [1, "b"]}),
        (read_json, '{"a": 1, "a": 2}', Surprise),
    ],
)
def test_what_is_read(reader, text, expected):
    if expected is Surprise:
        with pytest.raises(Surprise):
            reader(text)
    else:
        assert reader(text) == expected
