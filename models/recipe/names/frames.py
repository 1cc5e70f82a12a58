"""Sentences with holes, written for this recipe. `(a|b)` is a choice. Holes with a type become spans:

P a person's whole name, F a first name, L a last name, A an address, S the street part of one, O an organisation.
The rest are filled and mean nothing: city, country, month, weekday, product, email, phone, card, iban, date, num, word, lang.
"""

PEOPLE_EN = r"""
{P} (called|rang|wrote|phoned) (this morning|yesterday|again) about the (invoice|roof|contract|lesson).
(Could|Can|Would) you (ask|tell|remind) {P} to (call back|send the form|bring the keys)?
{P} and {P} (got married|met|moved in together|fell out) in {month}.
I (spoke|talked|worked) with {P} (last week|on {weekday}|in {city}) and {F} was very (kind|helpful|rude).
My (name is|name's) {P} and I (need|want|would like) (help|a refund|a new password).
(Regards|Best regards|Kind regards|Yours sincerely|Thanks|Cheers),\n{P}
(Hello|Hi|Hey|Dear) {F}, (thanks for your mail|how are you|the parcel came today)!
(Mr.|Mrs.|Ms.|Dr.|Prof.|Mr|Mrs|Dr) {L} (will see you now|is on leave|signed the lease|has retired).
(Contact|Ask for|Speak to) {P} at reception.
The (author|defendant|patient|witness|tenant|owner|driver) is {P}.
According to {P}, (nothing|everything|the plan) has changed.
{P}, who (lives in|comes from|was born in) {city}, (won|lost|left) (the race|the case|early).
{P} was (appointed|elected|named) (director|treasurer|captain) of {O}.
{P}, {num}, (of|from) {city}, was (fined|arrested|rescued).
This letter is for {P} only.
Did {P} (pay|sign|answer|come)?
Please (add|remove|invite|copy) {P} (to|from) the (list|meeting|thread).
Forward this to {P} (please|today|when you can).
{F} said that {F} is (ill|late|angry) again.
{P}: I'll (do it|be there|check)\n{P}: (thanks|ok|great)
Attendees: {P}, {P}, {P}
Cc: {P}; {P}
Beneficiary: {P}
Patient name: {P}   Date of birth: {date}
Cardholder {P}, card {card}
The card {card} (was issued to|is in the name of) {P}.
The loan is in the name of {P}.
Send {num} euros to {P}, account {iban}.
Tenant {P} (has not paid|paid late), IBAN {iban}.
Signed on {date} by {P}.
Witnessed by {P}, (clerk|notary) in {city}.
{P} (DOB|born|born on) {date}, phone {phone}
{P} <{email}> wrote:
From: {P} <{email}>\nTo: {P} <{email}>\nSubject: (lunch|minutes|your order)
You can reach {P} on {phone} or at {email}.
Leave a message for {P} on {phone}.
It's {P}, ring me on {phone} when you can.
Translate into {lang}: {P} is my neighbour.
Write a (poem|letter|reminder) (for|to) {P}.
Summarise what {P} told {P} about {product}.
Is {P} (related|married) to {P}?
I am {P}.
This is {P} from {O}.
Who is {P}?
{P}'s (wife|brother|lawyer|car|garden|essay) (is|was) (here|new|late).
(Poor|Old|Little) {F} (cried|slept|laughed).
The (novel|song|film|album) by {P} was (a hit|banned|forgotten).
Starring {P} and {P}
Directed by {P}, written by {P}
Music: {P}. Lyrics: {P}.
{P} - {O}
{P}\n{O}\n{A}\n{phone}
{P}\n{A}
To {P}, with love
In memory of {P} (1931-2019)
{P} scored twice for {city}.
{P} vs {P}, court of {city}
President {P} (spoke|arrived) in {city} on {weekday}.
My (son|daughter|cousin|uncle|boss|doctor|grandmother|sister) {F} (likes|hates|needs) (milk|snow|work).
My (grandfather|aunt|teacher) was (named|called) {P}.
I would like to register {P} as a (guardian|member|student|nominee).
Put the account under {P}.
The policy holder, {P}, asked for a copy.
(Owner|Assignee|Reporter|Author|Name|Customer|Employee|Manager): {P}
Wallet of {P}
The address belongs to {P}
{P} owes {P} {num} dollars.
user={P};action=login
name={P}&age={num}
{P} logged in from {ip}
INFO user "{P}" created
ERROR could not notify {P}: timeout
"name": "{P}", "age": {num}
{"name": "{P}", "mail": "{email}"}
{"customer": {"first": "{F}", "last": "{L}"}, "total": {num}}
{"author": "{P}", "text": "(fine|ok|no)"}
name,email,phone\n{P},{email},{phone}\n{P},{email},{phone}
id;name;city\n{num};{P};{city}\n{num};{P};{city}
| name | phone |\n|---|---|\n| {P} | {phone} |\n| {P} | {phone} |
customer = "{P}"  # (test|fixme)
patient: {P}
let owner = "{P}";
INSERT INTO people VALUES ({num}, '{P}', '{email}');
<name>{P}</name><mail>{email}</mail>
{L}, {F} ({num})
- {P}\n- {P}\n- {P}
Team: {F}, {F} and {F}
{F} and I went to {city}.
The winners are {F}, {F}, {F} and {L}.
Our founders {L}, {L} and {L} met in {city}.
{F}: (what now|who is that|go away)?\n{F}: (never|nothing|I don't know).
{F} gave {F} the keys.
Unlike {L}, we never (lost|won).
Everybody knows {L} and {L}.
Hey, this is {F}, (are you home|call me).
It's {F}!
It's {F} from the (gym|office|bank).
Hand them to {F}.
Give {F} my (love|number|keys).
A (song|book|painting) by {P}.
(Producer|Singer|Actor|Coach|Minister|Senator|Mayor|Architect) {P} (explained|smiled|agreed).
Ask {F} or {F} about (the {product} release|the {product} plan).
{P} joined {O} in {month}.
Interview with {P}, founder of {O}
as {P} (once|famously) (said|wrote), "(less is more|time flies|never again)"
rest in peace {P}
{P} (died|was born) on {date} in {city}.
happy birthday {F}!!
@{word} meet {P}
a tribute concert for {P} was held in {city}
(police|friends|neighbours) of {P} (say|said) (he|she) was (kind|quiet)
(murderer|killer|victim) {P} was (found|sentenced)
My account is with {P} as joint holder.
(Patient|Client|Customer|Employee|Student|Member|Captain|Nurse|Officer|Detective|Judge|Witness|Driver|Passenger) {P} (has|was|will be) (late|here|informed|discharged).
(Patient|Client|Customer|Applicant|Student|Passenger) {P}, born {date}, (asks for|needs) {num} tablets.
(Patient|Client|Student|Guest) {P} (\(room {num}\)|) (left|arrived) on {weekday}.
{P}, of {A}, (pleaded guilty|was fined|is missing|was born in {city}).
The (accused|claimant|applicant), {P}, of {A}, (said nothing|was present).
{P} (born {date}) and {P} (born {date})
Starring:   {P}\nGenre: Drama, Comedy
Drama, Horror & Mystery\nWritten by: {P}
Get in touch with {P} (next week|in two days|soon).
"""

PLACES_EN = r"""
(Send|Ship|Deliver|Post|Return|Forward) (it|the parcel|the books|my order|everything) to {A}.
(Send|Ship|Deliver) (it|this) to {A}, please.
We (live|lived|stay|stayed) at {A}.
We (live|lived) at {A} until {month}.
My (new|old|home|billing|shipping|current|permanent|mailing) address is {A}.
My address: {A}
(Address|Billing address|Ship to|Delivery address|Residence|Domicile|Location): {A}
(Address|Home|Office):\n{A}
The (house|flat|shop|office|warehouse|clinic) at {S} is for (sale|rent).
(See you|Pick me up|Park|Wait for me) at {S} (tomorrow|at noon|after work|in an hour).
Our (offices|shop|clinic) (is|are) (located|found) at {A}.
Please change my address (from {A} to {A}|to {A}).
Change the address on the card {card} to {A}.
I need a (plumber|cab|technician|nurse) at {A} (now|today|before noon).
A (cab|driver|courier) is waiting at {A}.
The (fire|accident|party|concert|meeting) was at {S}, {city}.
{P} lives at {A}.
{P} of {A} (was charged|is the owner|died).
{P}, {A}, {phone}
{P} (moved|relocated|is moving) to {A}.
{P}, born {date}, (resides|lives) at {S}.
The tenant of {A} is {P}.
Where do you live? {A}
User: {A}
Bot: Which address? User: {A}
Here are two addresses: {A} and {A}
I used to live at {A}, now it is {A}.
{S} or {S}?
The building at {S} has (three|six|ten) floors.
Turn left at {S}.
If undelivered return to {A}
{O}, {A}
{O}\n{A}\n{city}
{"address": "{A}"}
{"street": "{S}", "city": "{city}"}
name,address\n{P},"{A}"\n{P},"{A}"
id;street;zip\n{num};{S};{num}\n{num};{S};{num}
address = "{A}"
street: {S}
<address>{A}</address>
INSERT INTO homes VALUES ('{S}', '{city}');
shipping to {A} failed
INFO geocode "{A}" took {num} ms
(Is|was) it {A}?
My parents have a house at {A}.
They found him near {S}.
Visit us at {A}!
{A} is (where I live|my home|the place).
The flat at {A}, which we (sold|rented), was (cold|small).
He was born in {city} and died at {A}, aged {num}.
I will be at {A} after the (show|match|game|lecture).
Our new home: {A}!
Is {A} near the station?
Change of address: {P}, {A}, since {date}.
(invoice|receipt) to: {P}, {A}
"""

FIRMS_EN = r"""
{O} (bought|sued|hired|praised|acquired) {O}.
I work (for|at) {O} (in {city}|since {month}|now).
{O} (said|announced|denied) on {weekday} that (profits|sales|losses) (rose|fell).
(Shares|Bonds) of {O} (fell|rose) {num} per cent.
The contract with {O} ends in {month}.
(Employer|Company|Vendor|Supplier|Client): {O}
My employer is {O}.
{"company": "{O}", "employees": {num}}
An invoice from {O} over {num} euros
{O} is hiring (cooks|engineers|nurses).
{P} of {O} (called|agreed|resigned).
{P} \({O}\)
Speakers: {P} \({O}\), {P} \({O}\)
{O}: (no comment|closed today)
{O} and {O} (merge|settle|join forces).
{O} opened a (branch|plant|office) in {city}.
(He|She) (studied at|taught at|left|joined) {O} in {month}.
The (report|study|audit) by {O} was (long|late|clear).
Welcome to {O}!
(Bank|Insurer|Hospital|School|University): {O}
The {O} (was founded|started) in {num} and is a (firm|charity|club) in {city}.
{O} sent the wrong bill to {P}.
organisation: {O}
name;firm\n{P};{O}\n{P};{O}
"""

NOTHING_EN = r"""
The capital of {country} is {city}.
She flew from {city} to {city} on {weekday}.
In {month} it (rains|snows) in {country}.
(Is|Was) {country} larger than {country}?
I learn {lang} and {lang}.
{product} {num} was released in {month}.
The {product} (launch|release|project) (slipped|starts) in {month}.
Project {product} is (late|done|on hold).
Install {product} on {product}.
{product} supports {lang} and {lang}.
How do I (sort a list|open a file|parse JSON) in {product}?
The (King|Queen|President|Prime Minister|Pope) of {country} (visited|spoke|resigned).
(Monday|Tuesday|Friday) (is|was) (a holiday|busy|quiet).
What does HTTP {num} mean?
Room {num}, floor {num}, shelf {num}-{num}
Chapter {num}: (The Old House|A Long Winter|Into the Woods|Night Train)
(Happy New Year|Merry Christmas|Good Morning|Good Night|Happy Easter) everyone!
The (Second World War|French Revolution|Cold War|Iron Age|Renaissance) (began|ended) long ago.
(Mount Everest|The Nile|Lake Victoria|The Black Sea|The Pacific Ocean|The Alps) is (high|long|deep).
The meeting is on {weekday} at {num} o'clock.
Order {num} ships (tomorrow|on {weekday}).
Your API key is (hidden|revoked|shown once).
Version {num}.{num} fixes (two bugs|the build).
let x = {num}; // {word}
def {word}(a, b): return a + b
fn {word}(x: u32) -> u32 { x + {num} }
SELECT {word} FROM {word} WHERE id = {num};
import {word}
{"id": {num}, "ok": true, "kind": "{word}"}
GET /api/{word}/{num} HTTP/1.1" 200 {num}
{word} = {num}
mov eax, {num}
INFO {word} started in {num} ms
WARN retry {num} of {num} for {word}
Error: {word} not found (os error {num})
Pi is 3.14159 and e is 2.71828.
The total is {num}.{num} EUR including tax.
Score: {num}-{num}, time {num}:{num}
Invoice {num}-{num} over {num} USD
Please (read|sign|print) the (form|manual|page) first.
Write a (poem|story|haiku) about (winter|the sea|a cat).
Explain (gravity|recursion|inflation) to a (child|student).
Title: (The Long Road|Notes|Minutes)\nDate: {date}
Dear Sir or Madam,
To Whom It May Concern
Dear Customer, your (order|card|parcel) is ready.
Hi there, (any news|all good)?
Hello World
(Thanks|Thank You|Many Thanks) and (Best Regards|Kind Regards)
Read {product} in a Nutshell.
The Beatles, Abba and Queen were bands.
The Bible, the Koran and the Talmud are books.
Click Settings, then Privacy, then Advanced.
Press Ctrl+C or Enter.
Use the Save As dialog (File, Save As).
Terms and Conditions apply.
My phone is {phone} and my mail is {email}.
Card {card}, valid thru 0{num}/30
IBAN {iban}
My card {card} was (stolen|lost|blocked).
Send the statement for {card} to {email}.
The (password|token|key) is (wrong|expired|too short).
Call {phone} after {num}.
API_KEY={word}{num}
export PATH=$PATH:/usr/{word}
ssh root@{ip}
Server {ip} is down
Commit {hex} (fixes|breaks|adds) the (tests|parser|docs).
commit {sha}
Merge branch '{word}' into {word}
(Request|Trace|Session|Job|Order) (id |){uuid} (failed|timed out|was queued).
{uuid}
{"id": "{uuid}", "parent": "{uuid}"}
curl -X POST -H "Accept: text/plain" localhost:{num}/{word}
curl -s https://{word}.example/{word} | sh
git log --oneline {hex}..{hex}
docker run -p {num}:{num} {word}:{num}
push rbp; mov rax, 0x{hex}; call {word}
Card (ends|ending) in {num}, (exp|expires|valid until) 0{num}/{num}
card {card}, exp 0{num}/{num}, cvv {num}
Visa {card} cvc {num}
Comedy, Drama & Romance, Science Fiction & Fantasy
Action, Thriller and Crime
Documentary & History, Music, Sport & Fitness
Apples, Pears & Plums, Bread and Butter
Red, White & Blue
Breakfast, Lunch & Dinner
ISBN {num}-{num}-{num} (costs|is sold out)
The parcel number is {num}{num} and it is late.
md5 {hex}{hex} {word}.tar.gz
0x{hex} 0x{hex} 0x{hex}
Questions? {phone} or {email}.
(Fax|Tel|Mobile): {phone}\n(Mail|E-mail): {email}
Token: {sha}
redis://localhost:{num}/{num}
http://{word}.test:{num}/{word}/v{num}/{word}
mysql://{word}:{word}@{word}.local:{num}/{word}
(Passport|Ticket|Invoice|Permit|Licence|Document|ID) (No.|No|number|#): {num}, (issued|valid until): {date}
(Tax|Customer|Policy|Account) (No.|number|ID) {num}
{num} ({num} per cent) of {num} {word}
Move money from {iban} to (another|my other) account
Height {num} cm, weight {num} kg
"""

OTHER = {
    "de": r"""
Mein Name ist {P} und ich (brauche|suche) Hilfe.
Bitte (rufen Sie|ruf) {P} (an|zurück): {phone}
(Sehr geehrter Herr|Sehr geehrte Frau|Frau|Herr) {L}, (vielen Dank|anbei die Rechnung).
Hallo {F}, (wie geht es dir|bis morgen)!
(Mit freundlichen Grüßen|Viele Grüße|Liebe Grüße)\n{P}
{P} wohnt (in|in der) {A}.
Ich wohne in der {S}.
Meine (neue Adresse|Anschrift) (ist|lautet) {A}.
Bitte (liefern|senden) Sie (das Paket|die Ware) an {A}.
Anschrift: {A}
Name: {P}, Anschrift: {A}
Der (Kunde|Patient|Mieter) {P} (hat gekündigt|ist verstorben).
{P} arbeitet bei {O} in {city}.
Die Firma {O} (sucht|meldet|plant) (Personal|Insolvenz|viel).
Am {weekday} fahren wir nach {city}.
Die Rechnung Nummer {num} ist bezahlt.
Das Wetter in {country} ist (gut|schlecht).
Wie spät ist es in {city}?
Der Hund schläft unter dem Tisch, und das Kind liest ein Buch.
Die Bundesregierung hat das Gesetz im Bundestag beschlossen.
""",
    "fr": r"""
Je m'appelle {P} et j'habite {A}.
(Bonjour|Cher|Chère) {F}, (merci pour ton message|à demain).
(Monsieur|Madame|M.|Mme) {L} (est absent|a signé|rappellera demain).
(Cordialement|Bien à vous|Amitiés),\n{P}
Mon adresse est {A}.
(Livrez|Envoyez) le colis au {A}.
Adresse : {A}
{P} travaille chez {O} à {city}.
Le patient {P}, né le {date}, (va mieux|est sorti).
Rendez-vous au {S} à midi.
{P} a écrit à {P}.
La société {O} (recrute|ferme).
Le {weekday}, nous partons à {city}.
La capitale de la {country} est {city}.
La facture numéro {num} est payée.
Le chat dort sous la table.
""",
    "es": r"""
Me llamo {P} y vivo en {A}.
(Hola|Querido|Estimado|Estimada) {F}, (gracias|nos vemos).
(El señor|La señora|Sr.|Sra.|Don|Doña) {L} (no está|firmó|llamará).
(Saludos|Atentamente),\n{P}
Mi dirección es {A}.
(Envíe|Entregue) el paquete a {A}.
Dirección: {A}
{P} trabaja en {O}.
El paciente {P}, nacido el {date}, está bien.
Nos vemos en {S}.
La empresa {O} (contrata|cierra).
El {weekday} vamos a {city}.
La capital de {country} es {city}.
La factura número {num} está pagada.
El perro duerme debajo de la mesa.
""",
    "it": r"""
Mi chiamo {P} e abito in {A}.
(Ciao|Caro|Cara|Gentile) {F}, (grazie|a domani).
(Il signor|La signora|Sig.|Dott.|Avv.) {L} (non c'è|ha firmato).
(Cordiali saluti|Saluti),\n{P}
Il mio indirizzo è {A}.
(Spedite|Mandate) il pacco a {A}.
Indirizzo: {A}
{P} lavora per {O}.
Ci vediamo in {S}.
La ditta {O} (assume|chiude).
Il {weekday} andiamo a {city}.
La capitale è {city}.
La fattura numero {num} è pagata.
Il gatto dorme sotto il tavolo.
""",
    "pt": r"""
Meu nome é {P} e moro na {A}.
(Olá|Caro|Prezada) {F}, (obrigado|até amanhã).
(O senhor|A senhora|Sr.|Dona) {L} (não está|assinou).
(Atenciosamente|Abraços),\n{P}
Meu endereço é {A}.
Entregue o pacote em {A}.
Endereço: {A}
{P} trabalha na {O}.
O paciente {P}, nascido em {date}, está bem.
Na {weekday} vamos para {city}.
A capital é {city}.
A fatura número {num} foi paga.
O cachorro dorme embaixo da mesa.
""",
    "nl": r"""
Mijn naam is {P} en ik woon op {A}.
(Beste|Hallo|Dag) {F}, (bedankt|tot morgen).
(De heer|Mevrouw|Dhr.|Mevr.) {L} (is er niet|heeft getekend).
(Met vriendelijke groet|Groeten),\n{P}
Mijn adres is {A}.
Stuur het pakket naar {A}.
Adres: {A}
{P} werkt bij {O}.
Op {weekday} gaan we naar {city}.
De hoofdstad is {city}.
Factuur nummer {num} is betaald.
De hond slaapt onder de tafel.
""",
    "pl": r"""
Nazywam się {P} i mieszkam pod adresem {A}.
(Cześć|Drogi|Szanowna) {F}, (dziękuję|do jutra).
(Pan|Pani) {L} (podpisał|nie przyszła).
(Z poważaniem|Pozdrawiam),\n{P}
Mój adres to {A}.
Proszę wysłać paczkę na adres {A}.
Adres: {A}
{P} pracuje w {O}.
W {weekday} jedziemy do {city}.
Faktura numer {num} jest opłacona.
Pies śpi pod stołem.
""",
    "cs": r"""
Jmenuji se {P} a bydlím na adrese {A}.
(Ahoj|Milý|Vážená) {F}, (děkuji|zítra přijdu).
(Pan|Paní) {L} (podepsal|nepřišla).
(S pozdravem|Zdraví),\n{P}
Moje adresa je {A}.
Pošlete balík na adresu {A}.
Adresa: {A}
{P} pracuje pro {O}.
V {weekday} jedeme do {city}.
Faktura číslo {num} je zaplacena.
Pes spí pod stolem.
""",
    "sv": r"""
Jag heter {P} och bor på {A}.
(Hej|Kära|Bästa) {F}, (tack|vi ses).
(Herr|Fru) {L} (är sjuk|skrev på).
(Med vänlig hälsning|Hälsningar),\n{P}
Min adress är {A}.
Skicka paketet till {A}.
Adress: {A}
{P} arbetar på {O}.
På {weekday} åker vi till {city}.
Faktura nummer {num} är betald.
Hunden sover under bordet.
""",
    "da": r"""
Jeg hedder {P} og bor på {A}.
(Hej|Kære) {F}, (tak|vi ses).
(Med venlig hilsen|Hilsen),\n{P}
Min adresse er {A}.
Adresse: {A}
{P} arbejder hos {O}.
Hunden sover under bordet.
""",
    "tr": r"""
Benim adım {P}, adresim {A}.
(Merhaba|Sevgili|Sayın) {F}, (teşekkürler|yarın görüşürüz).
(Saygılarımla|Selamlar),\n{P}
Adresim {A}.
Paketi {A} adresine gönderin.
Adres: {A}
{P} {O} şirketinde çalışıyor.
{weekday} günü {city} şehrine gidiyoruz.
Köpek masanın altında uyuyor.
""",
    "fi": r"""
Nimeni on {P} ja osoitteeni on {A}.
(Hei|Hyvä) {F}, (kiitos|nähdään).
(Terveisin|Ystävällisin terveisin),\n{P}
Osoite: {A}
{P} työskentelee yrityksessä {O}.
Koira nukkuu pöydän alla.
""",
    "ro": r"""
Mă numesc {P} și locuiesc la {A}.
(Bună|Dragă|Stimate) {F}, (mulțumesc|pe mâine).
(Cu stimă|Salutări),\n{P}
Adresa: {A}
{P} lucrează la {O}.
Câinele doarme sub masă.
""",
    "hu": r"""
A nevem {P}, a címem {A}.
(Szia|Kedves) {F}, (köszönöm|viszlát).
(Üdvözlettel|Tisztelettel),\n{P}
Cím: {A}
{P} a {O} cégnél dolgozik.
A kutya az asztal alatt alszik.
""",
}

# Parts of made-up names of organisations.
FIRM_HEADS = """Northern Global First National United Pacific Royal Blue Green Silver Golden Summit River Lake Harbor Alpine Central Nova Apex Delta
Vertex Bright Clear Swift Iron Stone Oak Cedar Maple Eagle Falcon Lion Star Sun Moon Sky Ocean Metro Urban Rural Modern Quantum Digital Cyber
Bio Eco Geo Agro Medi Euro Trans Inter Omni Pro Smart Prime Elite Union Liberty Heritage Pioneer Frontier Horizon Vision""".split()
FIRM_TAILS = """Bank|Insurance|Hospital|University|Foundation|Institute|Airlines|Motors|Foods|Systems|Software|Logistics|Energy|Pharma|Partners|Holdings|Group|
Industries|Consulting|Solutions|Capital|Media|Records|Studios|Orchestra|Museum|Library|School|Academy|College|Society|Association|Council|Clinic|
Brewery|Bakery|Textiles|Chemicals|Robotics|Labs|Networks|Telecom|Shipping|Railways|Construction|Properties|Trust|Ltd|Inc|LLC|GmbH|AG|S.A.|S.p.A.|BV|AB|Oy|Corp|Co.""".replace("\n", "").split("|")

# Held out: none of these frames is trained on.
HELD = r"""
Kindly arrange a visa interview for {P} before {month}.
The tenancy for {A} has been terminated.
Hey, it's {F} here, did the electrician turn up?
Complainant {P}, occupant of {S}, reported noise at {num}.
Our courier could not find {A} yesterday.
Reviewer 2: {P} ({O})
{P} underwent surgery on {date}; next of kin {P}, {phone}.
What time does the train to {city} leave?
My landlord {P} keeps emailing me from {email}.
Please cancel the subscription of {P} and refund card {card}.
{"buyer": "{P}", "ship": "{A}", "qty": {num}}
driver;licence;plate\n{P};{num};{word}\n{P};{num};{word}
2025-11-02T10:11:12Z DEBUG session opened for {P} from {ip}
The estate of the late {P} includes a cottage at {A}.
{P} transferred {num} pounds from {iban}.
Collect the keys from {S} and hand them to {F}.
Bring {product} to the boil and add {num} g of salt.
The museum in {city} reopens in {month}.
Landlady: {P}; premises: {A}
Yours truly, {P}
"""
