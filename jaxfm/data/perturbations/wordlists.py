"""Sentences that say nothing, and words of other languages for common English ones; written down for `jaxfm.stress`."""

from collections.abc import Mapping

# No names, no judgement, no question: whatever a text is about, its label stays.
NEUTRAL = (
    "This is the text .",
    "It was written today .",
    "The rest follows below .",
    "There is one more line here .",
    "That was all for now .",
    "This line is part of the page .",
    "It has been copied as it was .",
    "The page ends here .",
)
_LANGUAGES = ("german", "spanish", "french", "italian")
# English, then the languages above.
_WORDS = """
the der el le il|a ein un un un|and und y et e|or oder o ou o|but aber pero mais ma|not nicht no pas non
in in en dans in|of von de de di|with mit con avec con|without ohne sin sans senza|for für para pour per|to zu a à a
from von desde depuis da|is ist es est è|are sind son sont sono|was war era était era|were waren eran étaient erano
has hat tiene a ha|have haben tener avoir avere|be sein ser être essere|this dies este ce questo
that das eso cela quello|it es ello il esso|he er él il lui|she sie ella elle lei|we wir nosotros nous noi
they sie ellos ils loro|you du tú tu tu|i ich yo je io|my mein mi mon mio|his sein su son suo|her ihr su sa sua
our unser nuestro notre nostro|their ihr su leur loro|who wer quién qui chi|what was qué quoi cosa
where wo dónde où dove|when wann cuándo quand quando|why warum porqué pourquoi perché|how wie cómo comment come
which welche cuál quelle quale|all alle todos tous tutti|some einige algunos quelques alcuni|more mehr más plus più
very sehr muy très molto|too zu demasiado trop troppo|also auch también aussi anche|only nur solo seulement solo
now jetzt ahora maintenant ora|here hier aquí ici qui|there dort allí là là|then dann entonces alors allora
new neu nuevo nouveau nuovo|old alt viejo vieux vecchio|good gut bueno bon buono|bad schlecht malo mauvais cattivo
big groß grande grand grande|small klein pequeño petit piccolo|long lang largo long lungo
first erste primero premier primo|last letzte último dernier ultimo|day Tag día jour giorno|year Jahr año an anno
time Zeit tiempo temps tempo|man Mann hombre homme uomo|woman Frau mujer femme donna|people Leute gente gens gente
world Welt mundo monde mondo|life Leben vida vie vita|city Stadt ciudad ville città|country Land país pays paese
house Haus casa maison casa|water Wasser agua eau acqua|book Buch libro livre libro|film Film película film film
story Geschichte historia histoire storia|name Name nombre nom nome|war Krieg guerra guerre guerra
love Liebe amor amour amore|work Arbeit trabajo travail lavoro|one eins uno un uno|two zwei dos deux due
three drei tres trois tre|many viele muchos beaucoup molti|about über sobre sur circa|after nach después après dopo
before vor antes avant prima|under unter bajo sous sotto|between zwischen entre entre tra|can kann puede peut può
will wird va va sarà|make machen hacer faire fare|see sehen ver voir vedere|go gehen ir aller andare
""".strip().replace("\n", "|")
TRANSLATIONS: Mapping[str, tuple[str, ...]] = {
    english: tuple(others) for english, *others in (each.split() for each in _WORDS.split("|"))
}
assert all(len(each) == len(_LANGUAGES) for each in TRANSLATIONS.values())
