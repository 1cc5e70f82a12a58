// What is seen before the engine answers, and where it does not.
const WORDS = {
  en: { starting: 'HEPH is starting', again: 'The engine ended and is being started again', ended: 'The engine does not start', hint: 'What you wrote is kept. “heph doctor” in a terminal says more.', button: 'Try again' },
  de: { starting: 'HEPH startet', again: 'Das Rechenwerk endete und wird neu gestartet', ended: 'Das Rechenwerk startet nicht', hint: 'Was geschrieben wurde, ist aufgehoben. „heph doctor“ in einem Terminal sagt mehr.', button: 'Noch einmal versuchen' },
  zh: { starting: 'HEPH 正在启动', again: '引擎已终止，正在重新启动', ended: '引擎无法启动', hint: '您写下的内容已保存。在终端运行“heph doctor”可了解更多。', button: '重试' },
  ar: { starting: 'يبدأ HEPH', again: 'توقف المحرك ويُعاد تشغيله', ended: 'المحرك لا يبدأ', hint: 'ما كتبته محفوظ. الأمر «heph doctor» في الطرفية يقول المزيد.', button: 'حاول مجددًا' },
};

const tongue = navigator.language.split('-')[0];
const words = WORDS[tongue] ?? WORDS.en;
document.documentElement.lang = tongue in WORDS ? tongue : 'en';
document.documentElement.dir = tongue === 'ar' ? 'rtl' : 'ltr';

const [said, why, hint, again] = ['said', 'why', 'hint', 'again'].map((id) => document.getElementById(id));
hint.textContent = words.hint;
again.textContent = words.button;
again.addEventListener('click', () => window.__TAURI_INTERNALS__.invoke('again'));

function show(engine) {
  said.textContent = words[engine.state] ?? words.starting;
  why.textContent = engine.why ?? '';
  why.hidden = !engine.why;
  hint.hidden = again.hidden = engine.state !== 'ended';
}

show({ state: 'starting' });
addEventListener('heph', ({ detail }) => detail.what === 'engine' && show(detail.about));
