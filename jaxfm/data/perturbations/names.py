"""Names of people and places by origin, common ones, written down for `jaxfm.stress`; no list is taken from elsewhere.

An origin is where a name is common, nothing more: it says nothing of a person who has it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Names(NamedTuple):
    """Names that are common in a part of the world.

    Attributes:
      given: first names.
      family: family names.
      places: towns.
    """

    given: tuple[str, ...]
    family: tuple[str, ...]
    places: tuple[str, ...]


def _names(given: str, family: str, places: str) -> Names:
    return Names(*(tuple(each.split()) for each in (given, family, places)))


ORIGINS: Mapping[str, Names] = {
    "arabic": _names(
        "Amina Fatima Layla Noor Ahmed Hassan Omar Yusuf", "Haddad Khalil Mansour Nasser Saleh Qasim",
        "Aleppo Amman Basra Cairo Muscat Tripoli",
    ),
    "chinese": _names(
        "Fang Jing Lan Mei Bo Jun Lei Wei", "Chen Huang Li Wang Zhang Zhou", "Chengdu Harbin Nanjing Wuhan Xian Zhuhai"
    ),
    "english": _names(
        "Alice Emma Grace Lucy George Henry Jack Thomas", "Baker Clark Hughes Smith Turner Wilson",
        "Bristol Exeter Leeds Norwich Oxford Sheffield",
    ),
    "french": _names(
        "Camille Claire Louise Manon Antoine Hugo Julien Luc", "Bernard Dubois Fournier Lefebvre Moreau Petit",
        "Dijon Grenoble Lille Nantes Rennes Toulouse",
    ),
    "german": _names(
        "Anke Greta Heike Ute Bernd Jens Klaus Uwe", "Becker Fischer Keller Schmidt Vogel Weber",
        "Augsburg Bremen Dresden Kassel Leipzig Ulm",
    ),
    "indian": _names(
        "Ananya Kavita Priya Sunita Arjun Rahul Sanjay Vikram", "Gupta Iyer Kumar Patel Sharma Singh",
        "Bhopal Indore Jaipur Kochi Mysuru Pune",
    ),
    "japanese": _names(
        "Aiko Emi Hana Yuki Haruto Kenji Ren Takumi", "Ito Kobayashi Sato Suzuki Tanaka Watanabe",
        "Fukuoka Kobe Nagoya Sapporo Sendai Yokohama",
    ),
    "slavic": _names(
        "Agnieszka Ivana Katarzyna Olga Andrzej Dmitri Milan Pavel", "Horvat Ivanov Kowalski Novak Nowak Petrov",
        "Brno Gdansk Ljubljana Minsk Split Wroclaw",
    ),
    "spanish": _names(
        "Carmen Isabel Lucia Rosa Diego Javier Manuel Pablo", "Fernandez Garcia Gomez Lopez Morales Ruiz",
        "Bilbao Cali Lima Quito Rosario Sevilla",
    ),
    "turkish": _names(
        "Ayse Elif Leyla Zeynep Ahmet Emre Mehmet Murat", "Aydin Celik Demir Kaya Sahin Yilmaz",
        "Adana Antalya Bursa Izmir Konya Trabzon",
    ),
    "west african": _names(
        "Abena Adwoa Chioma Ngozi Chinedu Kofi Kwame Tunde", "Adeyemi Boateng Diallo Mensah Okafor Traore",
        "Accra Bamako Dakar Ibadan Kumasi Lagos",
    ),
}  # fmt: skip
# Types of entities, in lower case, whose names these are.
PEOPLE = ("per", "person", "people", "hum", "human")
PLACES = ("loc", "location", "gpe", "place", "geo", "city", "geo-loc")
